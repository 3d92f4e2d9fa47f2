//! The programs that speak MCP, as data: where each keeps its servers, and what an entry looks like there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::edit::{Entry, Format, Place};

/// A program that can be connected to.
#[derive(Debug)]
pub(super) struct Client {
    /// On the command line.
    pub(super) name: &'static str,
    /// Its own name.
    pub(super) title: &'static str,
    /// Where its configuration is: in the folder that a variable names, or the first that exists, else the first.
    files: &'static [Location],
    pub(super) place: Place,
    shape: Shape,
}

/// A file below a folder of the person's.
#[derive(Debug)]
enum Location {
    /// Below the folder that a variable of the environment names, if it is set.
    Variable(&'static str, &'static str),
    /// Below the home.
    Home(&'static str),
    /// Below the folder for configurations (`~/.config`; on macOS `~/Library/Application Support`).
    Config(&'static str),
    /// Below `~/.config`, wherever.
    DotConfig(&'static str),
}

/// How an entry says where the server is.
#[derive(Debug)]
enum Shape {
    /// `{"type": "http", "url": URL}`
    TypeAndUrl,
    /// `{"url": URL}`
    Url,
    /// `{"httpUrl": URL}`
    HttpUrl,
    /// `{"type": "remote", "url": URL, "enabled": true}`; commands are one list.
    Remote,
    /// It starts its servers as commands.
    Command,
}

const MCP_SERVERS: Place = Place { format: Format::Json, table: "mcpServers" };

/// As the clients' documentation has it in November 2026.
pub(super) const CLIENTS: [Client; 8] = [
    Client {
        name: "claude-code",
        title: "Claude Code",
        files: &[Location::Variable("CLAUDE_CONFIG_DIR", ".claude.json"), Location::Home(".claude.json")],
        place: MCP_SERVERS,
        shape: Shape::TypeAndUrl,
    },
    Client {
        name: "claude-desktop",
        title: "Claude Desktop",
        files: &[Location::Config("Claude/claude_desktop_config.json")],
        place: MCP_SERVERS,
        shape: Shape::Command,
    },
    Client {
        name: "codex",
        title: "Codex",
        files: &[Location::Variable("CODEX_HOME", "config.toml"), Location::Home(".codex/config.toml")],
        place: Place { format: Format::Toml, table: "mcp_servers" },
        shape: Shape::Url,
    },
    Client {
        name: "cursor",
        title: "Cursor",
        files: &[Location::Home(".cursor/mcp.json")],
        place: MCP_SERVERS,
        shape: Shape::Url,
    },
    Client {
        name: "gemini",
        title: "Gemini CLI",
        files: &[Location::Home(".gemini/settings.json")],
        place: MCP_SERVERS,
        shape: Shape::HttpUrl,
    },
    Client {
        name: "opencode",
        title: "opencode",
        files: &[Location::DotConfig("opencode/opencode.json"), Location::DotConfig("opencode/opencode.jsonc")],
        place: Place { format: Format::Json, table: "mcp" },
        shape: Shape::Remote,
    },
    Client {
        name: "vscode",
        title: "VS Code",
        files: &[Location::Config("Code/User/mcp.json")],
        place: Place { format: Format::Json, table: "servers" },
        shape: Shape::TypeAndUrl,
    },
    Client {
        name: "zed",
        title: "Zed",
        files: &[Location::DotConfig("zed/settings.json")],
        place: Place { format: Format::Json, table: "context_servers" },
        shape: Shape::Url,
    },
];

/// The folders of a person.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) home: PathBuf,
    /// `$XDG_CONFIG_HOME`, or `~/.config`.
    pub(super) dot_config: PathBuf,
    /// What a variable of the environment is.
    pub(super) variable: fn(&str) -> Option<OsString>,
}

/// What an entry leads to.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) route: &'a str,
    /// The route's URL; none where a client could not use it, as the route asks for a key.
    pub(super) url: Option<String>,
    /// This program, for clients that start it.
    pub(super) program: &'a Path,
    /// What it needs to find the daemon.
    pub(super) options: Vec<String>,
}

impl Client {
    /// Where its configuration is, or would be.
    pub(super) fn file(&self, folders: &Folders) -> PathBuf {
        let named = self.files.iter().find_map(|location| location.named(folders));
        named.unwrap_or_else(|| {
            let mut files = self.files.iter().filter_map(|location| location.path(folders));
            let first = files.next().expect("each has one");
            if first.exists() { first } else { files.find(|file| file.exists()).unwrap_or(first) }
        })
    }

    /// Whether it seems to be there: its file, or the folder that is its own.
    pub(super) fn is_installed(&self, folders: &Folders) -> bool {
        let file = self.file(folders);
        let is_own = |folder: &Path| folder != folders.home && folder != folders.dot_config;
        file.exists() || file.parent().is_some_and(|folder| is_own(folder) && folder.exists())
    }

    /// An entry that leads to a route.
    pub(super) fn entry(&self, target: &Target<'_>) -> Entry {
        let Target { route, url, program, options } = target;
        let program = program.display().to_string();
        let mut words = options.clone();
        words.extend(["mcp".to_owned(), (*route).to_owned()]);
        match (&self.shape, url) {
            (Shape::TypeAndUrl, Some(url)) => vec![("type", json!("http")), ("url", json!(url))],
            (Shape::Url, Some(url)) => vec![("url", json!(url))],
            (Shape::HttpUrl, Some(url)) => vec![("httpUrl", json!(url))],
            (Shape::Remote, Some(url)) => {
                vec![("type", json!("remote")), ("url", json!(url)), ("enabled", json!(true))]
            }
            (Shape::Remote, None) => {
                words.insert(0, program);
                vec![("type", json!("local")), ("command", json!(words)), ("enabled", json!(true))]
            }
            (Shape::Command, _) | (Shape::TypeAndUrl | Shape::Url | Shape::HttpUrl, None) => {
                vec![("command", json!(program)), ("args", json!(words))]
            }
        }
    }
}

impl Location {
    /// Where it is, if a variable says it.
    fn named(&self, folders: &Folders) -> Option<PathBuf> {
        let Location::Variable(variable, below) = self else { return None };
        let folder = PathBuf::from((folders.variable)(variable)?);
        folder.is_absolute().then(|| folder.join(below))
    }

    /// Where it is, if no variable says it.
    fn path(&self, folders: &Folders) -> Option<PathBuf> {
        Some(match self {
            Location::Variable(..) => return None,
            Location::Home(below) => folders.home.join(below),
            Location::DotConfig(below) => folders.dot_config.join(below),
            Location::Config(below) if cfg!(target_os = "macos") => {
                folders.home.join("Library/Application Support").join(below)
            }
            Location::Config(below) => folders.dot_config.join(below),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::as_value;
    use super::*;

    #[test]
    fn each_client_is_told_in_its_own_way() {
        let url = Some("http://localhost:8253/lab/mcp".to_owned());
        let target = |url| Target { route: "lab", url, program: Path::new("/usr/bin/valetd"), options: Vec::new() };
        let command = json!({"command": "/usr/bin/valetd", "args": ["mcp", "lab"]});
        let told = |name: &str, url| {
            let client = CLIENTS.iter().find(|client| client.name == name).unwrap();
            as_value(&client.entry(&target(url)))
        };
        let at = "http://localhost:8253/lab/mcp";
        for (name, expected) in [
            ("claude-code", json!({"type": "http", "url": at})),
            ("claude-desktop", command.clone()),
            ("codex", json!({"url": at})),
            ("cursor", json!({"url": at})),
            ("gemini", json!({"httpUrl": at})),
            ("opencode", json!({"type": "remote", "url": at, "enabled": true})),
            ("vscode", json!({"type": "http", "url": at})),
            ("zed", json!({"url": at})),
        ] {
            assert_eq!(told(name, url.clone()), expected, "{name}");
        }
        assert_eq!(told("cursor", None), command, "where a key is asked for, the bridge has one");
        let list = json!({"type": "local", "command": ["/usr/bin/valetd", "mcp", "lab"], "enabled": true});
        assert_eq!(told("opencode", None), list);
    }
}
