/// Why a gateway cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody to hand requests to.
    #[error("a gateway needs at least one backend, such as http://127.0.0.1:8001")]
    NoBackend,
    /// One backend would be taken for two, and its load for half.
    #[error("the backend {address} is named twice; name each server once")]
    Twice {
        /// What was given.
        address: String,
    },
    /// A number that makes no sense.
    #[error("{name} is {found}, but must be {expected}")]
    Option {
        /// The field of [`Options`](crate::Options).
        name: &'static str,
        /// What was given.
        found: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Why a text is not the address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No address at all.
    #[error("'{text}' is not the address of a server ({reason}); write it as http://HOST:PORT")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Encrypted connections to backends are not supported.
    #[error(
        "'{text}' asks for https, but a gateway speaks plain http with its backends; use http://HOST:PORT within a network \
         that you trust, or put a proxy that speaks https beside the server"
    )]
    Https {
        /// What was given.
        text: String,
    },
    /// More than scheme, host and port.
    #[error("'{text}' has {what}; the address of a backend is http://HOST:PORT and nothing else")]
    Extra {
        /// What was given.
        text: String,
        /// What is too much.
        what: &'static str,
    },
}
