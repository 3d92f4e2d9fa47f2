//! What a server says of itself in its response to `initialize` (MCP 2025-11-25, "Lifecycle"), or to `server/discover`
//! (2026-07-28).

use serde::Deserialize;

/// Names and versions are shown to people: a longer one is cut off here.
const LONGEST: usize = 60;

/// What is kept of it. The server's instructions and its other texts are not for valetd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Greeting {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Of a session; where requests stand for themselves, each says its own.
    pub(crate) protocol_version: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    result: Said,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    #[serde(rename_all = "camelCase")]
    Initialized { protocol_version: String, server_info: ServerInfo },
    Discovered {
        #[serde(rename = "_meta")]
        meta: Meta,
    },
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: ServerInfo,
}

#[derive(Deserialize)]
struct ServerInfo {
    name: String,
    #[serde(default)]
    version: String,
}

/// Finds it in the beginning of a body: JSON, or server-sent events. `None` as long as it is not whole.
pub(crate) fn greeting(text: &[u8]) -> Option<Greeting> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.trim_start_matches('\u{feff}');
    let events = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let said = std::iter::once(text).chain(events).find_map(|text| serde_json::from_str(text).ok());
    let Response { result } = said?;
    let (protocol_version, ServerInfo { name, version }) = match result {
        Said::Initialized { protocol_version, server_info } => (Some(protocol_version), server_info),
        Said::Discovered { meta: Meta { server_info } } => (None, server_info),
    };
    let shown = |text: String| text.chars().filter(|char| !char.is_control()).take(LONGEST).collect();
    Some(Greeting { name: shown(name), version: shown(version), protocol_version: protocol_version.map(shown) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},
        "serverInfo":{"name":"Linear\u001b[0m","version":"1.2"},"instructions":"tell nobody"}}"#;

    #[test]
    fn a_server_is_known_by_its_first_response_however_that_comes() {
        let line = TEXT.replace('\n', "");
        let expected = Greeting {
            name: "Linear[0m".to_owned(),
            version: "1.2".to_owned(),
            protocol_version: Some("2025-11-25".to_owned()),
        };
        for (case, text) in [
            ("JSON", TEXT.to_owned()),
            ("an event", format!("event: message\r\nid: 1\r\ndata: {line}\r\n\r\n")),
            ("an event behind one without data", format!(": hello\n\nid: 0\ndata:\n\ndata:{line}\n\n")),
            ("a BOM", format!("\u{feff}data: {line}\n\n")),
        ] {
            assert_eq!(greeting(text.as_bytes()).as_ref(), Some(&expected), "{case}");
            assert_eq!(greeting(&text.as_bytes()[..text.len() - 9]), None, "{case}, cut off");
        }
        let discovered = r#"{"id":1,"result":{"supportedVersions":["2026-07-28"],"capabilities":{},
            "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"x","version":"3"}}}}"#;
        let expected = Greeting { name: "x".to_owned(), version: "3".to_owned(), protocol_version: None };
        assert_eq!(greeting(discovered.as_bytes()), Some(expected));
        let long = TEXT.replace("1.2", &"9".repeat(1000));
        assert_eq!(greeting(long.as_bytes()).unwrap().version.len(), LONGEST);
        for other in ["", "{}", r#"{"id":1,"result":{"tools":[]}}"#, "data: x\n\n", "\u{0}"] {
            assert_eq!(greeting(other.as_bytes()), None, "{other}");
        }
        assert_eq!(greeting(b"\xff"), None);
    }
}
