//! The authorization servers: what they know of each sign-in, what becomes of a grant, and what a response says.

use std::time::{Duration, UNIX_EPOCH};

use super::promises::{Measure, Promise};
use super::state::{
    AccessToken, End, Fate, HOUR, InFlight, Login, Message, Outcome, RefreshToken, Rotation, SECOND, number, shown,
};
use super::world::Outside;
use crate::oauth::{Client, Dialect, Grant, TokenResponse, Tokens, Vocabulary};
use crate::renewal::{Failure, Why};
use crate::secret::Secret;
use crate::token_endpoint::GrantFailure;

impl Outside {
    /// A new sign-in at a server, by a person.
    pub(super) fn sign_in(&mut self, account: usize) -> (u64, Secret) {
        self.logins += 1;
        let login = self.logins;
        let refresh = self.new_refresh_token(login);
        let has_password = self.chance(6);
        let at_server = Login {
            current: refresh,
            access: None,
            ended: None,
            has_password,
            may_be_lost: false,
            was_falsely_refused: false,
        };
        self.servers[account].logins.insert(login, at_server);
        self.tally.sign_ins += 1;
        (login, Secret::new(format!("r{refresh}")))
    }

    pub(super) fn new_refresh_token(&mut self, login: u64) -> usize {
        self.refresh.push(RefreshToken {
            login,
            successor: None,
            arrived_in: None,
            is_saved: false,
            is_answered: false,
        });
        self.refresh.len() - 1
    }

    /// The server's side of a grant, at `at`. Returns the response, and what tokens are in it.
    pub(super) fn serve(&mut self, in_flight: &InFlight, at: u64) -> (Outcome, Option<(usize, Option<usize>)>) {
        let (account, login) = (in_flight.account, in_flight.login);
        let refused = Outcome::Http { status: 400, retry_after: None, body: r#"{"error":"invalid_grant"}"#.into() };
        let Some(state) = self.servers[account].logins.get(&login).cloned() else { return (refused, None) };
        let rotation = self.servers[account].rotation;
        let mut current = state.current;
        let is_password = !matches!(in_flight.grant, Grant::RefreshToken(_));
        if is_password {
            if !state.has_password {
                return (refused, None);
            }
            current = self.new_refresh_token(login);
        } else if state.ended.is_some() {
            return (refused, None);
        }
        if let Grant::RefreshToken(token) = &in_flight.grant {
            let token = number(token.expose());
            if let Some(successor) = self.refresh[token].successor {
                let RefreshToken { arrived_in, is_saved, .. } = self.refresh[successor];
                let is_ours = in_flight.process == self.process && self.known[account].login == Some(login);
                if is_ours && (is_saved || arrived_in == Some(self.process)) {
                    let how = format!("r{token} was spent although r{successor} had come for it");
                    self.breaks(Promise::NoLoginLost, how);
                }
            }
            let is_previous = self.refresh[token].successor == Some(current);
            match rotation {
                Rotation::Off => {}
                Rotation::Strict | Rotation::Graceful if token == current => {
                    current = self.new_refresh_token(login);
                    self.refresh[token].successor = Some(current);
                    self.tally.rotations += 1;
                }
                Rotation::Graceful if is_previous => {} // the same pair again
                Rotation::Strict | Rotation::Graceful => {
                    let state = self.servers[account].logins.get_mut(&login).expect("looked up above");
                    state.ended = Some(End::Reused);
                    self.tell(|| format!("a{account}: the server sees r{token} again and ends the login"));
                    return (refused, None);
                }
            }
        }
        let server = &self.servers[account];
        let kept = state.access.filter(|token| server.hands_back && self.access[*token].expires > at + 100);
        // without rotation every refresh token stays good, also one that is older than the server's newest
        let refresh = match &in_flight.grant {
            Grant::RefreshToken(token) if rotation == Rotation::Off => number(token.expose()),
            Grant::RefreshToken(_) | Grant::Password { .. } | Grant::ClientCredentials | Grant::Issued => current,
            Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } => unreachable!("no renewal has a code"),
        };
        let access = kept.filter(|_| rotation == Rotation::Off && server.tells_life).unwrap_or_else(|| {
            let is_end_known = server.tells_life || server.life >= HOUR;
            self.access.push(AccessToken {
                expires: at + server.life,
                is_end_known,
                is_revoked: false,
                login,
                refresh,
            });
            self.access.len() - 1
        });
        self.access[access].refresh = refresh;
        let tells_refresh = rotation != Rotation::Off || is_password;
        let life = (self.access[access].expires - at) / SECOND;
        let state = self.servers[account].logins.get_mut(&login).expect("looked up above");
        (state.current, state.access) = (current, Some(access));
        if is_password {
            state.ended = None;
        }
        let mut body = format!(r#"{{"access_token":"t{access}","token_type":"Bearer""#);
        if tells_refresh {
            body += &format!(r#","refresh_token":"r{current}""#);
        }
        if self.servers[account].tells_life {
            body += &format!(r#","expires_in":{life}"#);
        }
        body.push('}');
        (Outcome::Http { status: 200, retry_after: None, body }, Some((access, tells_refresh.then_some(current))))
    }

    /// A grant arrives at the server: what comes of it is put on its way back.
    pub(super) fn process_grant(&mut self, in_flight: InFlight, fate: Fate) {
        let (outcome, brought) = match fate {
            Fate::NotSent => (Outcome::NotSent, None),
            Fate::ResetBefore => (Outcome::Lost, None),
            Fate::Busy(status, retry_after) => (Outcome::Http { status, retry_after, body: String::new() }, None),
            Fate::Stranger(status) => {
                (Outcome::Http { status, retry_after: None, body: "<html>Log in to the wifi</html>".into() }, None)
            }
            Fate::ClientRefused => {
                self.known[in_flight.account].client_refused = true;
                let body = r#"{"error":"invalid_client"}"#.into();
                (Outcome::Http { status: 401, retry_after: None, body }, None)
            }
            Fate::FalseRefusal => {
                let login = self.servers[in_flight.account].logins.get_mut(&in_flight.login);
                if let Some(login) = login {
                    login.was_falsely_refused = true;
                }
                let body = r#"{"error":"invalid_grant"}"#.into();
                (Outcome::Http { status: 400, retry_after: None, body }, None)
            }
            Fate::Garbled(is_cut) => match self.serve(&in_flight, in_flight.at) {
                (Outcome::Http { status: 200, retry_after, body }, brought) => {
                    let body = match is_cut {
                        true => body[..body.len() / 2].to_owned(),
                        false => body.replace("\"Bearer\"", "\"DPoP\""),
                    };
                    // half of it may be without the new refresh token; the whole is not, if there is one
                    let has_new = brought
                        .and_then(|(_, refresh)| refresh)
                        .is_some_and(|refresh| body.contains(&format!("\"r{refresh}\"")));
                    if !has_new && is_cut {
                        self.tally.answers_lost += 1;
                    }
                    (Outcome::Http { status: 200, retry_after, body }, brought.filter(|_| has_new))
                }
                other => other,
            },
            Fate::Answered | Fate::AnsweredTwice => self.serve(&in_flight, in_flight.at),
            Fate::AnswerLost => {
                self.tally.answers_lost += 1;
                let _ = self.serve(&in_flight, in_flight.at);
                (Outcome::Lost, None)
            }
        };
        self.tell(|| {
            format!("a{}: {:?} of {:?}: {fate:?}: {outcome:?}", in_flight.account, in_flight.id, shown(&in_flight))
        });
        // where a password has its turn within the same renewal, a second answer would be taken for its
        let has_password =
            self.servers[in_flight.account].logins.get(&in_flight.login).is_some_and(|state| state.has_password);
        for _ in 0..if fate == Fate::AnsweredTwice && !has_password { 2 } else { 1 } {
            let slow = if !self.is_calm && self.chance(12) { self.roll(14_000) } else { self.roll(300) };
            let message = Message::Answer(outcome.clone(), brought);
            self.in_flight.push(InFlight { at: in_flight.at + slow, message, ..in_flight.clone() });
        }
    }

    /// What the token endpoint makes of what came back.
    pub(super) fn read(&self, grant: &Grant, outcome: &Outcome) -> Result<Tokens, GrantFailure> {
        let failed = |failure, oauth_error, http_status, detail: String| {
            Err(GrantFailure { failure, oauth_error, http_status, detail, wants_rotation: false })
        };
        let (status, retry_after, body) = match outcome {
            Outcome::NotSent => {
                return failed(Failure::Transient { retry_after: None }, None, None, "not sent".into());
            }
            Outcome::Lost if matches!(grant, Grant::RefreshToken(_)) => {
                return failed(Failure::Ambiguous, None, None, "connection reset".into());
            }
            Outcome::Lost => {
                return failed(Failure::Transient { retry_after: None }, None, None, "connection reset".into());
            }
            Outcome::Http { status, retry_after, body } => (*status, *retry_after, body),
        };
        let retry_after = retry_after.map(|seconds| seconds.to_string());
        let response = TokenResponse {
            status,
            retry_after: retry_after.as_deref(),
            body: body.as_bytes(),
            ..TokenResponse::default()
        };
        let wall = UNIX_EPOCH + Duration::from_millis(self.truth);
        Dialect::Rfc6749.read(&response, grant, &Client::default(), &Vocabulary::default(), wall).or_else(|refusal| {
            let by_status = self.off == Some(Measure::VerdictByCode) && (400..500).contains(&status);
            let failure = if by_status { Failure::Permanent(Why::Revoked) } else { refusal.failure };
            failed(failure, refusal.oauth_error, Some(status), refusal.detail)
        })
    }
}
