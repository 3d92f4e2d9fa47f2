//! Both providers' stand-ins as a program, for tests that are not written in Rust.
//!
//! `stand_ins [--lifetime SECONDS] [--rotation off|strict|GRACE_SECONDS]` prints one line of JSON, where they are and
//! what signs in there; then it answers each line of standard input with one line of JSON, and ends with its input:
//!
//! - `log`: how often tokens were issued and the API was called, and which API calls carried no good token;
//! - `sign-in`: a new refresh token for each, and a one-time code for GDH;
//! - `revoke`: the APIs refuse all access tokens from now on.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use serde_json::{Value, json};
use valetd::stand_in::{Options, PASSWORD, Provider, Rotation, StandIn, USERNAME};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut options = Options::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| unknown(&name))?;
        let seconds = value.parse().map(Duration::from_secs_f64);
        match (name.as_str(), value.as_str(), seconds) {
            ("--lifetime", _, Ok(life)) => options.access_lifetime = life,
            ("--rotation", "off", _) => options.rotation = Rotation::Off,
            ("--rotation", "strict", _) => options.rotation = Rotation::Strict,
            ("--rotation", _, Ok(grace)) => options.rotation = Rotation::Grace(grace),
            _ => return Err(unknown(&name)),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let gdh = StandIn::start(Provider::Gdh, options).await?;
        let gbdx = StandIn::start(Provider::Gbdx, options).await?;
        say(&json!({"gdh": places(&gdh), "gbdx": places(&gbdx), "username": USERNAME, "password": PASSWORD}))?;
        loop {
            // the stand-ins go on while a thread waits for the next line
            let Some(line) = tokio::task::spawn_blocking(|| io::stdin().lock().lines().next()).await? else {
                return Ok(());
            };
            match line?.as_str() {
                "log" => say(&json!({"gdh": log(&gdh), "gbdx": log(&gbdx)}))?,
                "sign-in" => say(&json!({"gdh": gdh.sign_in().expose(), "gbdx": gbdx.sign_in().expose(),
                    "code": gdh.mint_code()}))?,
                "revoke" => {
                    gdh.revoke_access_tokens();
                    gbdx.revoke_access_tokens();
                    say(&json!({}))?;
                }
                line => say(&json!({"error": format!("no such command: {line}")}))?,
            }
        }
    })
}

fn unknown(argument: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{argument} is not understood; see the file's first lines"))
}

fn places(stand_in: &StandIn) -> Value {
    json!({"url": stand_in.url(), "token_endpoint": stand_in.token_endpoint(),
        "cognito_endpoint": stand_in.cognito_endpoint(), "revocation_endpoint": stand_in.revocation_endpoint()})
}

fn log(stand_in: &StandIn) -> Value {
    let log = stand_in.log();
    let refused = log.api_calls.iter().filter(|call| !call.token_valid);
    let refused: Vec<String> = refused.map(|call| format!("{} {}", call.method, call.target)).collect();
    json!({"issued": log.outcomes("issued"), "revoked": log.outcomes("revoked"), "api_calls": log.api_calls.len(),
        "without_good_token": refused, "reuse_detected": log.reuse_detected,
        "most_token_calls_at_once": log.most_token_calls_at_once})
}

/// One line; whoever reads it may be waiting for it.
fn say(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
