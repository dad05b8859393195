//! Jinja as transformers sets it up for chat templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use minijinja_contrib::pycompat;

use super::json;

/// `trim_blocks` and `lstrip_blocks` are on, nothing is escaped, strings have Python's methods, and there are
/// `raise_exception` and a `tojson` that writes what `json.dumps` does.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", to_json);
    environment
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `indent` is the only option of `json.dumps` that can be given; `ensure_ascii=False` is always so.
#[expect(clippy::needless_pass_by_value, reason = "the engine passes arguments by value")]
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson with ensure_ascii=True is not supported"));
    }
    options.assert_all_used()?;
    json::dumps(&value, indent)
}
