//! Headers on their way.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE, VIA};

/// Headers that speak of one connection and not of what is sent over it (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What says where a request came from before it was here.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a gateway calls itself in `via`.
const PSEUDONYM: &str = "hadal-gateway";

/// So many gateways may stand behind one another.
const MAX_HOPS: usize = 4;

/// Removes what concerns the connection that a message came by.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Turns the headers of a request into those that a backend sees.
pub(crate) fn for_backend(headers: &mut HeaderMap, id: &HeaderValue, peer: Option<IpAddr>, trust_forwarded: bool) {
    strip_hop_by_hop(headers);
    // The client library writes the backend's own name and the length of the body that it sends.
    for name in [HOST, CONTENT_LENGTH, EXPECT] {
        headers.remove(name);
    }
    if !trust_forwarded {
        for name in FORWARDED {
            headers.remove(name);
        }
    }
    if let Some(peer) = peer {
        let peer = HeaderValue::from_str(&peer.to_canonical().to_string()).expect("an address is ASCII");
        headers.append(X_FORWARDED_FOR, peer);
    }
    headers.insert(X_REQUEST_ID, id.clone());
    headers.append(VIA, HeaderValue::from_str(&format!("1.1 {PSEUDONYM}")).expect("a name is ASCII"));
}

/// The client's own name for its request if it is one that can stand in a log, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_fine = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        (1..=128).contains(&bytes.len()) && bytes.iter().all(is_plain)
    };
    headers.get(X_REQUEST_ID).filter(is_fine).cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a number in hexadecimal is ASCII")
    })
}

/// Whether a request has gone through so many gateways that it seems to go round.
pub(crate) fn goes_round(headers: &HeaderMap) -> bool {
    let vias = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
    vias.map(|via| via.matches(PSEUDONYM).count()).sum::<usize>() >= MAX_HOPS
}

/// Whether a client wants to leave HTTP. An offer of HTTP/2 is none: it may be passed over.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(UPGRADE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    offers
        .map(<[u8]>::trim_ascii)
        .any(|offer| !offer.eq_ignore_ascii_case(b"h2c") && !offer.eq_ignore_ascii_case(b"HTTP2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a value");
        lines
            .iter()
            .map(|(name, text)| (HeaderName::from_static(name), value(text)))
            .collect::<Vec<_>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn a_backend_sees_what_concerns_it() {
        let mut map = headers(&[
            ("host", "evil"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("authorization", "Bearer k"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-request-id", "a b"),
        ]);
        let id = request_id(&map);
        assert_eq!(id.len(), 36, "a name with a space is replaced");
        let mut trusted = map.clone();
        for_backend(&mut map, &id, Some([127, 0, 0, 1].into()), false);
        let expected = [
            ("authorization", "Bearer k"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-request-id", id.to_str().expect("ASCII")),
            ("via", "1.1 hadal-gateway"),
        ];
        assert_eq!(map, headers(&expected));

        for_backend(&mut trusted, &id, Some([127, 0, 0, 1].into()), true);
        let path: Vec<_> = trusted.get_all("x-forwarded-for").iter().collect();
        assert_eq!(path, ["6.6.6.6", "127.0.0.1"]);
        assert_eq!(trusted["forwarded"], "for=6.6.6.6");
    }

    #[test]
    fn a_client_may_name_its_request() {
        let fine = "a".repeat(128);
        assert_eq!(request_id(&headers(&[("x-request-id", &fine)])), fine.as_str());
        for bad in ["", "a/b", &"a".repeat(129)] {
            assert_ne!(request_id(&headers(&[("x-request-id", bad)])), bad);
        }
    }

    #[test]
    fn circles_and_upgrades_are_seen() {
        let via = |n| headers(&vec![("via", "1.1 other, 1.1 hadal-gateway"); n]);
        assert!(!goes_round(&via(3)) && goes_round(&via(4)));
        let upgrade = |text| wants_upgrade(&headers(&[("upgrade", text)]));
        assert!(upgrade("websocket") && upgrade("h2c, websocket") && upgrade(""));
        assert!(!upgrade("h2c") && !upgrade("H2C, http2") && !wants_upgrade(&HeaderMap::new()));
    }
}
