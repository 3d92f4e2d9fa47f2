//! How it stands, until the person ends it: kept on the screen of a terminal, a line for each change elsewhere.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::page::{Scene, page, suggestions};
use super::reports::{base_url, until};
use super::servers::Servers;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::print;
use crate::cli::screen::{Input, Screen};
use crate::control::ControlState;
use crate::control::report::StatusReport;

/// `port` is where the daemon was to listen.
pub(super) async fn show(
    state: &ControlState,
    servers: &Servers,
    folder: &Path,
    keep: bool,
    port: u16,
) -> Result<Exit, Failure> {
    let is_up = |report: &StatusReport| keep || report.accounts.iter().all(|account| account.usable);
    let report = until(state, "token", is_up).await?;
    let code = servers.gdh.mint_code();
    let base = base_url(&report)?;
    let elsewhere = (!base.ends_with(&format!(":{port}"))).then_some(port);
    let mut scene = Scene { base, elsewhere, folder, practice: keep.then_some((servers, code)) };
    match io::stdout().is_terminal() {
        true => on_a_screen(state, servers, &mut scene).await,
        false => in_lines(state, &scene).await,
    }
}

async fn on_a_screen(state: &ControlState, servers: &Servers, scene: &mut Scene<'_>) -> Result<Exit, Failure> {
    let no_terminal = |error| Failure::new(error).while_doing("opening the terminal");
    let color = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let mut screen = Screen::open(color).map_err(no_terminal)?;
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut accounts = state.accounts.clone();
    let (mut is_out, mut told) = (false, "");
    loop {
        // a code is good once
        if let Some((servers, code)) = &mut scene.practice
            && !servers.gdh.takes_code(code)
        {
            *code = servers.gdh.mint_code();
        }
        let (width, _) = screen.size();
        screen.show(&page(&state.report(), scene, told, width)).map_err(no_terminal)?;
        tokio::select! {
            input = screen.input() => match input {
                Input::Quit => return Ok(Exit::Fine),
                Input::Resized => screen.clear().map_err(no_terminal)?,
                Input::Key(b'r') => {
                    servers.revoke();
                    told = "The APIs refuse every token: the next request renews.";
                }
                Input::Key(b'o') => {
                    is_out = !is_out;
                    servers.break_down(is_out);
                    told = match (is_out, scene.practice.is_some()) {
                        (true, true) => "No authorization server is in order: no sign-in succeeds, tokens stay in use.",
                        (true, false) => "No authorization server is in order: tokens stay in use until their end.",
                        (false, _) => "The authorization servers are in order again.",
                    };
                }
                Input::Key(_) => {}
            },
            _ = second.tick() => {}
            _ = accounts.changed() => {}
        }
    }
}

async fn in_lines(state: &ControlState, scene: &Scene<'_>) -> Result<Exit, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut accounts = state.accounts.clone();
    let mut told = String::new();
    print(&format!("{}Ctrl-C ends it and removes {}\n\n", suggestions(scene, usize::MAX), scene.folder.display()))?;
    loop {
        let report = state.report();
        let line = report.accounts.iter().map(|a| format!("{}: {} renewals", a.id, a.renewals)).collect::<Vec<_>>();
        let requests: u64 = report.routes.iter().map(|route| route.requests).sum();
        let line = format!("{}, {requests} requests\n", line.join(", "));
        if line != told {
            print(&line)?;
            told = line;
        }
        tokio::select! {
            _ = second.tick() => {}
            _ = accounts.changed() => {}
            _ = interrupt.recv() => return Ok(Exit::Fine),
            _ = terminate.recv() => return Ok(Exit::Fine),
        }
    }
}
