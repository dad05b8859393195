//! Grammars that were written to hurt, or by accident.
