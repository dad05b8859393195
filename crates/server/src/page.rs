//! The page to chat on, as it is in the program.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::doors::{Dialect, respond};
use crate::error::ApiError;

/// Its files, beside the page itself.
const FILES: &[(&str, &str)] = &[
    ("announce.js", include_str!("../page/announce.js")),
    ("answer.js", include_str!("../page/answer.js")),
    ("api.js", include_str!("../page/api.js")),
    ("chart.js", include_str!("../page/chart.js")),
    ("chat.js", include_str!("../page/chat.js")),
    ("conversation.js", include_str!("../page/conversation.js")),
    ("dialogs.js", include_str!("../page/dialogs.js")),
    ("dom.js", include_str!("../page/dom.js")),
    ("format.js", include_str!("../page/format.js")),
    ("icon.svg", include_str!("../page/icon.svg")),
    ("inline.js", include_str!("../page/inline.js")),
    ("main.js", include_str!("../page/main.js")),
    ("markdown.js", include_str!("../page/markdown.js")),
    ("models.js", include_str!("../page/models.js")),
    ("render.js", include_str!("../page/render.js")),
    ("settings.js", include_str!("../page/settings.js")),
    ("sidebar.js", include_str!("../page/sidebar.js")),
    ("sse.js", include_str!("../page/sse.js")),
    ("status.js", include_str!("../page/status.js")),
    ("store.js", include_str!("../page/store.js")),
    ("style.css", include_str!("../page/style.css")),
    ("turns.js", include_str!("../page/turns.js")),
];

/// Nothing is loaded from anywhere else, nothing in a text becomes a script, and no other page can put a frame around it.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
    require-trusted-types-for 'script'";

/// The page itself: `/`.
pub(crate) async fn index() -> Response {
    file("index.html", include_str!("../page/index.html"))
}

/// What it is made of: `/ui/{file}`.
pub(crate) async fn part(Path(name): Path<String>) -> Response {
    let Some((name, text)) = FILES.iter().find(|(known, _)| *known == name) else {
        let error = ApiError::new(StatusCode::NOT_FOUND, "not_found", "the page has no such file");
        return respond(&error, Dialect::OpenAi, "");
    };
    file(name, text)
}

fn file(name: &str, text: &'static str) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    // A new program has a new page.
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let names = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "index.html").collect();
        names.sort();
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    }
}
