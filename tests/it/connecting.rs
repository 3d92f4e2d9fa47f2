//! `valetd connect`, on the configuration files of programs that speak MCP.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider};

use crate::support::disk::SmallDisk;
use crate::support::lab::{self, Server, address};
use crate::support::{Home, eventually, free_address, mode, words};

/// Where each program has its configuration in a story's home, and one that it may have had before.
const FILES: [(&str, &str, &str); 8] = [
    ("claude-code", ".claude.json", "{\n  \"numStartups\": 7,\n  \"mcpServers\": {}\n}\n"),
    (
        "claude-desktop",
        "config/Claude/claude_desktop_config.json",
        "{\"mcpServers\":{\"other\":{\"command\":\"x\",\"args\":[]}}}",
    ),
    (
        "codex",
        ".codex/config.toml",
        "# mine\nmodel = \"x\" # odd\n\n[mcp_servers.other]\ncommand = \"y\"\n\n[profiles.a]\nb = 1\n",
    ),
    (
        "cursor",
        ".cursor/mcp.json",
        "\u{feff}{\r\n\t\"mcpServers\": {\r\n\t\t\"other\": {\"url\": \"https://x.example\"}\r\n\t}\r\n}\r\n",
    ),
    ("gemini", ".gemini/settings.json", "{ \"theme\": \"GitHub\" }"),
    ("opencode", "config/opencode/opencode.json", "{\n  \"$schema\": \"https://opencode.ai/config.json\",\n}\n"),
    ("vscode", "config/Code/User/mcp.json", "{\n\t// servers\n\t\"servers\": {\n\t},\n\t\"inputs\": []\n}\n"),
    (
        "zed",
        "config/zed/settings.json",
        "// Zed settings\n{\n  \"theme\": \"One\", // dark\n  /* none yet */\n  \"vim_mode\": false,\n}\n",
    ),
];

fn home(server: &Server, route: &str) -> Home {
    lab::home(server, "", route, "")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn json_of(home: &Home, arguments: &[&str]) -> Value {
    let output = home.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", words(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", words(&output)))
}

#[test]
fn each_program_is_connected_once_and_undone_byte_for_byte() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "mcp = \"/mcp\"");
    let daemon = home.start();
    let url = format!("http://{}/lab/mcp", address(&daemon));
    for (client, file, before) in FILES {
        let path = home.path(file);
        for before in [Some(before), None] {
            match before {
                Some(text) => write(&path, text),
                None => fs::remove_file(&path).expect("it was there"),
            }
            let connect = ["connect", client, "lab", "--yes", "--json"];
            let told = json_of(&home, &connect);
            assert_eq!(
                (&told["changed"], &told["file"]),
                (&json!(true), &json!(path.display().to_string())),
                "{client}"
            );
            let with = fs::read_to_string(&path).expect("it is there");
            let leads = with.contains(&url) || client == "claude-desktop" && with.contains("\"mcp\"");
            assert!(leads, "{client}: {with}");
            for line in before.unwrap_or_default().lines().filter(|line| line.contains("//") || line.contains('#')) {
                assert!(with.contains(line), "{client}: a comment is lost: {with}");
            }
            assert_eq!(json_of(&home, &connect)["changed"], false, "{client}");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), with);
            let clients = json_of(&home, &["connect", "--json"]);
            let row = clients.as_array().expect("a list").iter().find(|row| row["client"] == client).expect("its row");
            assert_eq!((&row["connected"], &row["installed"]), (&json!(["lab"]), &json!(true)), "{client}");

            assert_eq!(json_of(&home, &["connect", client, "lab", "--undo", "--yes", "--json"])["changed"], true);
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), before, "{client}");
            let folder = fs::read_dir(path.parent().expect("a folder")).expect("a folder");
            let left = folder.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
            let left: Vec<String> = left.filter(|name| name.contains("valetd") && name.contains("before")).collect();
            assert!(left.is_empty(), "{client}: {left:?}");
            if before.is_none() {
                write(&path, ""); // for the next round's removal
            }
        }
    }
}

#[test]
fn what_others_have_written_since_stays_when_an_entry_is_taken_out() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "mcp = \"/mcp\"");
    let _daemon = home.start();
    let path = home.path(".cursor/mcp.json");
    write(&path, "{\n  \"mcpServers\": {}\n}\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
    assert!(home.run(&["connect", "cursor", "lab", "--yes"]).status.success());
    assert_eq!(mode(&path), 0o640);
    let with = fs::read_to_string(&path).expect("it is there");
    write(&path, &with.replacen('{', "{\n  \"mine\": 1,", 1));
    assert!(home.run(&["connect", "cursor", "lab", "--undo", "--yes"]).status.success());
    let after = fs::read_to_string(&path).expect("it is there");
    assert!(after.contains("\"mine\": 1") && !after.contains("lab"), "{after}");
    assert!(words(&home.run(&["connect", "cursor", "lab", "--undo", "--yes"])).contains("is not connected to lab"));
    write(&path, "{\"mcpServers\": {\"lab\": {\"url\": \"https://mcp.lab.example\"}}}");
    let refused = home.run(&["connect", "cursor", "lab", "--undo", "--yes"]);
    assert!(!refused.status.success() && words(&refused).contains("does not lead to valetd"), "{}", words(&refused));
}

#[test]
fn a_program_that_is_told_another_folder_is_connected_there() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "mcp = \"/mcp\"");
    let _daemon = home.start();
    for (client, usual, variable, file) in [
        ("codex", ".codex/config.toml", "CODEX_HOME", "config.toml"),
        ("claude-code", ".claude.json", "CLAUDE_CONFIG_DIR", ".claude.json"),
    ] {
        write(&home.path(usual), "");
        let folder = home.path(client);
        fs::create_dir(&folder).expect("a folder");
        let mut command = home.valetd(&["connect", client, "lab", "--yes"]);
        let output = command.env(variable, &folder).output().expect("it runs");
        assert!(output.status.success(), "{}", words(&output));
        let with = fs::read_to_string(folder.join(file)).expect("it is there");
        assert!(with.contains("/lab/mcp"), "{with}");
        assert_eq!(fs::read_to_string(home.path(usual)).expect("it is there"), "", "{client}");
    }
}

#[test]
fn several_entries_and_one_that_was_written_again_are_undone_byte_for_byte_in_any_order() {
    let server = Server::start(Provider::Gdh, Options::default());
    let more = |port: &str| {
        let other = "[route.other]\naccount = \"lab\"\nupstream = \"http://127.0.0.1:1\"\nmcp = true\n";
        lab::config(&server, "", &format!("mcp = \"/mcp\"\n{other}"), "").replace("127.0.0.1:0", port)
    };
    let home = Home::with(&more(&free_address()));
    lab::sign_in(&home, &server.sign_in());
    let daemon = home.start();
    daemon.until("lab", "usable");
    let run = |arguments: &[&str]| {
        let output = home.run(&[&["connect"], arguments, &["--yes"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        words(&output)
    };
    for (client, file, before) in FILES {
        let path = home.path(file);
        for (before, undone) in
            [(Some(before), ["lab", "other"]), (Some(before), ["other", "lab"]), (None, ["lab", "other"])]
        {
            match before {
                Some(text) => write(&path, text),
                None => fs::remove_file(&path).unwrap_or_default(),
            }
            run(&[client, "lab"]);
            let one = fs::read_to_string(&path).expect("it is there");
            run(&[client, "other"]);
            run(&[client, undone[0], "--undo"]);
            if undone[0] == "other" {
                assert_eq!(fs::read_to_string(&path).ok().as_ref(), Some(&one), "{client}");
            }
            run(&[client, undone[1], "--undo"]);
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), before, "{client} {undone:?}");
            assert!(!path.with_file_name(format!("{}.before-valetd", path.file_name().unwrap().display())).exists());
        }
    }

    // the route has another address since
    let path = home.path(".gemini/settings.json");
    let before = "{ \"theme\": \"GitHub\" }";
    write(&path, before);
    run(&["gemini", "lab"]);
    let local = free_address();
    home.write_config(&more(&local));
    eventually("the new address", || (address(&daemon) == local).then_some(()));
    run(&["gemini", "lab"]);
    assert!(fs::read_to_string(&path).expect("it is there").contains(&local));
    run(&["gemini", "lab", "--undo"]);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), before);

    // an entry of the person's own is not replaced without a word, and comes back
    let theirs = "{\"mcpServers\": {\"lab\": {\"httpUrl\": \"https://mcp.lab.example\", \"timeout\": 7}}}";
    write(&path, theirs);
    assert!(run(&["gemini", "lab"]).contains("in place of the entry lab that is there"));
    run(&["gemini", "lab", "--undo"]);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), theirs);
}

#[test]
fn a_configuration_behind_a_link_is_changed_where_it_is() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "mcp = \"/mcp\"");
    let _daemon = home.start();
    let (path, real) = (home.path(".claude.json"), home.path("dotfiles/claude.json"));
    let before = "{\r\n  // mine\r\n  \"mcpServers\": {}\r\n}\r\n";
    write(&real, before);
    std::os::unix::fs::symlink("dotfiles/claude.json", &path).expect("a link");
    assert!(home.run(&["connect", "claude-code", "lab", "--yes"]).status.success());
    let with = fs::read_to_string(&real).expect("it is there");
    assert!(with.contains("/lab/mcp") && with.contains("// mine\r\n"), "{with}");
    assert!(home.run(&["connect", "claude-code", "lab", "--undo", "--yes"]).status.success());
    assert_eq!(fs::read_to_string(&real).expect("it is there"), before);

    // also where it leads to a file that is not there yet
    fs::remove_file(&real).expect("it was there");
    assert!(home.run(&["connect", "claude-code", "lab", "--yes"]).status.success());
    assert!(path.is_symlink() && fs::read_to_string(&real).expect("it is there").contains("/lab/mcp"));
    assert!(home.run(&["connect", "claude-code", "lab", "--undo", "--yes"]).status.success());
    assert!(path.is_symlink() && !real.exists(), "what was made is gone, and the link stays");
    fs::remove_dir_all(home.path("dotfiles")).expect("it was there");
    let refused = home.run(&["connect", "claude-code", "lab", "--yes"]);
    assert!(words(&refused).contains("is a link that leads nowhere"), "{}", words(&refused));
    assert!(path.is_symlink() && !real.exists());
    assert_eq!(fs::read_link(&path).expect("it is a link"), Path::new("dotfiles/claude.json"));
}

#[test]
fn what_cannot_be_written_is_left_alone_and_said() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "mcp = \"/mcp\"");
    let path = home.path(".cursor/mcp.json");
    let connect = ["connect", "cursor", "lab", "--yes"];
    let said = words(&home.run(&connect));
    assert!(said.contains("no daemon listens"), "{said}");
    let _daemon = home.start();
    for (text, expected) in [
        ("{", "is no JSON"),
        ("{\"mcpServers\": {}, \"mcpServers\": {}}", "has \"mcpServers\" twice"),
        ("{\"mcpServers\": 7}", "has something else"),
        ("[]", "has something else"),
    ] {
        write(&path, text);
        let refused = home.run(&connect);
        let said = words(&refused);
        assert!(
            refused.status.code() == Some(1) && said.contains(expected) && said.contains("nothing was written"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
    }
    write(&path, "{}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("a mode");
    assert!(words(&home.run(&connect)).contains("is read-only"));
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "{}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    let asked = home.run(&["connect", "cursor", "lab"]);
    let said = words(&asked);
    assert!(said.contains("Cursor gets, in") && said.contains("nothing was changed"), "{said}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "{}");

    let printed = words(&home.run(&["connect", "codex", "lab", "--print"]));
    assert!(printed.contains(".codex/config.toml\n[mcp_servers.lab]\nurl = \"http://"), "{printed}");
    for (arguments, expected) in [
        (&["connect", "cursr", "lab"][..], "(did you mean \"cursor\"?)"),
        (&["connect", "cursor", "lba", "--yes"], "(did you mean \"lab\"?)"),
    ] {
        let said = words(&home.run(arguments));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_route_that_asks_for_a_key_is_reached_by_the_bridge_and_one_without_mcp_by_nothing() {
    let server = Server::start(Provider::Gdh, Options::default());
    let guarded = home(&server, "mcp = \"/mcp\"\nrequire_key = true");
    let daemon = guarded.start();
    daemon.until("lab", "usable");
    let told = json_of(&guarded, &["connect", "cursor", "lab", "--yes", "--json"]);
    let (command, words_of) = (&told["entry"]["command"], &told["entry"]["args"]);
    assert_eq!(words_of, &json!(["mcp", "lab"]));
    let mut bridge = guarded.valetd(&["mcp", "lab"]);
    assert_eq!(Some(bridge.get_program().to_str().expect("a text")), command.as_str());
    bridge.stdin(std::process::Stdio::null());
    assert!(bridge.status().expect("it runs").success());

    let plain = home(&server, "");
    let _daemon = plain.start();
    let said = words(&plain.run(&["connect", "cursor", "lab", "--yes"]));
    assert!(said.contains("is not said to lead to an MCP server") && said.contains("add mcp = true"), "{said}");
}

#[test]
fn a_full_disk_leaves_the_file_as_it_was_and_no_copy_beside_it() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = home(&server, "mcp = \"/mcp\"");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let Some(disk) = SmallDisk::at(&home.path(".gemini"), "64k") else { return };
    let path = home.path(".gemini/settings.json");
    let before = "{ \"theme\": \"GitHub\" }";
    write(&path, before);
    // a file takes a page: with none left the copy cannot be written, with one the file cannot
    let fill = home.path(".gemini/fill");
    for pages_left in [0, 1] {
        let mut bytes = 128 * 4096;
        while fs::write(&fill, vec![b'x'; bytes]).is_err() {
            bytes -= 4096;
        }
        fs::write(&fill, vec![b'x'; bytes - pages_left * 4096]).expect("less than before");
        let output = home.run(&["connect", "gemini", "lab", "--yes"]);
        assert!(output.status.code() == Some(1) && words(&output).contains("no storage space"), "{}", words(&output));
        let folder = fs::read_dir(&disk.folder).expect("a folder").flatten();
        let mut left: Vec<_> = folder.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        left.sort();
        assert_eq!(left, ["fill", "settings.json"], "{pages_left}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), before);
    }
    fs::remove_file(&fill).expect("removed");
    for undo in [&[][..], &["--undo"]] {
        let output = home.run(&[&["connect", "gemini", "lab", "--yes"], undo].concat());
        assert!(output.status.success(), "{}", words(&output));
    }
    assert_eq!(fs::read_to_string(&path).expect("it is there"), before);
}
