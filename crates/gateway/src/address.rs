//! Where a backend is.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::error::AddressError;

/// The address of a backend: `http://HOST:PORT`.
///
/// Host names are resolved anew for each connection. A name that stands for several servers counts as one backend, so
/// give each server a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host in lower case and port, which is always written out.
    authority: Authority,
}

impl Address {
    /// The address of something at this backend. The path begins with a slash.
    pub(crate) fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("scheme, authority and a path with a slash are an address")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = |reason: &str| AddressError::Malformed { text: text.to_owned(), reason: reason.to_owned() };
        let extra = |what| AddressError::Extra { text: text.to_owned(), what };
        // Without this, a host and a port would be read as a scheme and a path.
        if !text.contains("://") {
            return Err(malformed("it does not begin with http://"));
        }
        // The parser of `http` drops what follows a hash.
        if text.contains('#') {
            return Err(extra("a fragment"));
        }
        let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| malformed(&error.to_string()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(AddressError::Https { text: text.to_owned() }),
            _ => return Err(malformed("its scheme is not http")),
        }
        let authority = uri.authority().ok_or_else(|| malformed("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(extra("a user name"));
        }
        if uri.query().is_some() {
            return Err(extra("a query"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(extra("a path"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(malformed("it has no host"));
        }
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => 80,
            _ => match authority.port_u16() {
                None | Some(0) => return Err(malformed("its port is not a number from 1 to 65535")),
                Some(port) => port,
            },
        };
        let authority = format!("{}:{port}", host.to_ascii_lowercase());
        Ok(Self { authority: authority.parse().map_err(|_| malformed("its host is not a name or address"))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_in_one_way() {
        for (text, written) in [
            ("http://LocalHost:8001", "http://localhost:8001"),
            ("http://127.0.0.2/", "http://127.0.0.2:80"),
            ("HTTP://[::1]:8001", "http://[::1]:8001"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), written);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "does not begin with http://"),
            ("localhost:8001", "does not begin with http://"),
            ("https://a", "plain http"),
            ("ftp://a", "scheme is not http"),
            ("http://", ""),
            ("http://:8000", "no host"),
            ("http://a:0", "port"),
            ("http://a:65536", "port"),
            ("http://a:", "port"),
            ("http://a:b", ""),
            ("http://me:secret@a", "user name"),
            ("http://a/v1", "a path"),
            ("http://a/?x", "a query"),
            ("http://a#x", "a fragment"),
            ("http://a b", ""),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains("http://HOST:PORT"), "{text}: {error}");
        }
    }
}
