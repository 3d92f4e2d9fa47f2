//! How programs are told of a command's own certificate authority: what the help shows, and what `trust` has to set.

/// Programs that are told in one way.
struct Clients {
    names: &'static str,
    told: Told,
}

/// How they are.
enum Told {
    /// They read these variables.
    By(&'static [&'static str]),
    /// They read none, or no proxy's; this serves them.
    With(&'static str),
}

use Told::{By, With};

/// Measured with the programs themselves, but for AWS CLI, bundler, cargo, gcloud, httplib2, Julia and Nix, whose documents say
/// so.
const CLIENTS: [Clients; 21] = [
    row("curl, GDAL, R's url()", By(&["CURL_CA_BUNDLE"])),
    row("GDAL and PROJ in Python wheels", By(&["GDAL_CURL_CA_BUNDLE", "PROJ_CURL_CA_BUNDLE"])),
    row("git", By(&["GIT_SSL_CAINFO"])),
    row("requests", By(&["REQUESTS_CA_BUNDLE"])),
    row("pip", By(&["PIP_CERT"])),
    row("httpx, urllib, aiohttp (trust_env),", By(&["SSL_CERT_FILE"])),
    row("  websockets, uv, Go, rclone, Ruby", By(&["SSL_CERT_FILE"])),
    row("bundler", By(&["BUNDLE_SSL_CA_CERT"])),
    row("boto3, AWS CLI", By(&["AWS_CA_BUNDLE"])),
    row("gcloud", By(&["CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"])),
    row("gRPC", By(&["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"])),
    row("httplib2", By(&["HTTPLIB2_CA_CERTS"])),
    row("cargo", By(&["CARGO_HTTP_CAINFO"])),
    row("Perl's LWP", By(&["PERL_LWP_SSL_CA_FILE", "PERL_LWP_ENV_PROXY"])),
    row("npm, Bun, Node from 22.21 and 24.0", By(&["NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY"])),
    row("Deno", By(&["DENO_CERT"])),
    row("Nix, Julia", By(&["NIX_SSL_CERT_FILE", "JULIA_SSL_CA_ROOTS_PATH"])),
    row("Java", With("--java")),
    row("wget, pycurl, R's curl", With("--trust-mount, --isolate")),
    row("bare urllib3, aiohttp, Node 20's fetch", With("--isolate")),
    row("authorities built in, pinned ones", With("nothing: give it the route's URL")),
];

const fn row(names: &'static str, told: Told) -> Clients {
    Clients { names, told }
}

/// The table, in lines.
pub(super) fn table() -> String {
    let mut text = String::new();
    for Clients { names, told } in &CLIENTS {
        let words: &[&str] = match told {
            By(variables) => variables,
            With(what) => &[what],
        };
        for (at, word) in words.iter().enumerate() {
            let names = if at == 0 { names } else { "" };
            text.push_str(format!("  {names:40}{word}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// Whether the table has a variable.
#[cfg(test)]
pub(super) fn names(variable: &str) -> bool {
    CLIENTS.iter().any(|row| matches!(row.told, By(variables) if variables.contains(&variable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_read_and_every_option_in_it_is_one() {
        let command = crate::cli::command();
        let exec = command.find_subcommand("exec").unwrap();
        let is_option = |word: &str| exec.get_arguments().any(|argument| argument.get_long() == Some(word));
        for row in &CLIENTS {
            assert!(row.names.chars().count() < 40, "{}", row.names);
            if let With(what) = row.told {
                for option in what.split(", ").filter_map(|word| word.strip_prefix("--")) {
                    assert!(is_option(option), "{option}");
                }
            }
        }
        assert!(table().lines().all(|line| line.chars().count() <= 80), "{}", table());
    }
}
