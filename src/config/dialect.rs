//! What an account says of its provider's own dialect: how token requests are written (`token_request`, `parameters`), where
//! responses hold what (`token_response`), what error codes mean (`errors`).

use super::header::token_request_field;
use super::problem::Complaint;
use super::read::Table;
use super::reader::Reader;
use super::secret_source::SecretSource;
use crate::oauth::rfc7009::{RevocationForm, Revoked, ShownClient};
use crate::oauth::{BodyFormat, ClientAuth, Dialect, ErrorWords, Members, Pointer, RequestForm, Vocabulary};

pub(super) const CLIENT_AUTHS: &[(&str, ClientAuth)] = &[
    ("none", ClientAuth::None),
    ("post", ClientAuth::Post),
    ("basic", ClientAuth::Basic),
    ("basic_raw", ClientAuth::BasicRaw),
];

const FORMATS: &[(&str, BodyFormat)] = &[("form", BodyFormat::Form), ("json", BodyFormat::Json)];

const REVOKED: &[(&str, Revoked)] = &[("refresh_token", Revoked::RefreshToken), ("access_token", Revoked::AccessToken)];

/// Parameters of token requests that the grant sets.
const GRANT_PARAMETERS: &[&str] = &[
    "client_assertion",
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "device_code",
    "grant_type",
    "password",
    "redirect_uri",
    "refresh_token",
    "username",
];

/// What may have another name at a server: the above, and what else is sent.
const RENAMED: &[&str] = &[
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "grant_type",
    "password",
    "redirect_uri",
    "refresh_token",
    "scope",
    "token",
    "token_type_hint",
    "username",
];

/// The parameters that one request holds together, each list of another kind of request: no two may go by one name.
const SENT_TOGETHER: [&[&str]; 4] = [
    &["client_id", "client_secret", "grant_type", "refresh_token", "scope"],
    &["client_id", "client_secret", "grant_type", "username", "password", "scope"],
    &["client_id", "client_secret", "grant_type", "code", "redirect_uri", "code_verifier"],
    &["client_id", "client_secret", "token", "token_type_hint"],
];

/// How requests for tokens are written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TokenRequestSettings {
    /// The body.
    pub form: RequestForm,
    /// Header fields besides, or in place of, what is sent by itself; names in lower case. Values may be keys.
    pub headers: Vec<(String, SecretSource)>,
}

impl<'a> Reader<'a> {
    pub(super) fn token_request(&self, table: &Table<'a>) -> TokenRequestSettings {
        let Some(table) = table.table("token_request") else { return TokenRequestSettings::default() };
        table.only(&["format", "names", "headers"]);
        let format = table.word("format", FORMATS).map_or(BodyFormat::Form, |found| found.value);
        let names = table.table("names").map(|names| self.names(&names)).unwrap_or_default();
        let headers = table.table("headers").map(|headers| self.added_fields(&headers, token_request_field));
        TokenRequestSettings { form: RequestForm { format, names }, headers: headers.unwrap_or_default() }
    }

    pub(super) fn revocation(&self, table: &Table<'a>) -> RevocationForm {
        let Some(table) = table.table("revocation") else { return RevocationForm::default() };
        table.only(&["method", "token", "name", "format", "client_auth"]);
        let clients = CLIENT_AUTHS.iter().map(|(word, auth)| (*word, ShownClient::By(*auth)));
        let clients: Vec<_> = clients.chain([("absent", ShownClient::Absent)]).collect();
        RevocationForm {
            is_delete: table.word("method", &[("POST", false), ("DELETE", true)]).is_some_and(|found| found.value),
            takes: table.word("token", REVOKED).map(|found| found.value).unwrap_or_default(),
            name: table.string("name").map(|found| found.value),
            format: table.word("format", FORMATS).map(|found| found.value),
            client: table.word("client_auth", &clients).map(|found| found.value),
        }
    }

    /// The parameters that go by another name here. Two that are sent together must not go by one: of a parameter that is
    /// there twice, nobody knows which one the server takes (RFC 6749 section 3.2).
    fn names(&self, table: &Table<'_>) -> Vec<(String, String)> {
        table.only(RENAMED);
        let mut names: Vec<(String, String)> = Vec::new();
        for known in RENAMED {
            let Some(theirs) = table.string(known) else { continue };
            names.push(((*known).to_owned(), theirs.value));
        }
        for (index, (known, theirs)) in names.iter().enumerate() {
            let goes_by = |other: &str| match names.iter().position(|(renamed, _)| renamed == other) {
                Some(at) if at > index => None, // it is complained of when its turn comes
                Some(at) => Some(names[at].1.clone()),
                None => Some(other.to_owned()),
            };
            let together = SENT_TOGETHER.iter().filter(|all| all.contains(&known.as_str())).copied().flatten();
            let same = together.copied().find(|other| other != known && goes_by(other).as_ref() == Some(theirs));
            if let Some(other) = same {
                let remedy = "give each a name of its own";
                let message = format!("is the name of {other}, too, which is sent beside it");
                self.sink.error(&table.place_of(known), Complaint::new(message, remedy));
            }
        }
        names
    }

    pub(super) fn vocabulary(&self, table: &Table<'_>) -> Vocabulary {
        Vocabulary { members: self.members(table), errors: self.error_words(table) }
    }

    fn members(&self, table: &Table<'_>) -> Members {
        let Some(table) = table.table("token_response") else { return Members::default() };
        table.only(&[
            "within",
            "access_token",
            "id_token",
            "refresh_token",
            "token_type",
            "expires_in",
            "expires_at",
            "refresh_expires_in",
            "error",
            "error_description",
        ]);
        let within = table.one_or_several("within", Pointer::parse).unwrap_or_default();
        let parse = |text: &str| match text {
            "" => Err("is empty"),
            _ if text.starts_with("$.") || text.starts_with('#') => {
                Err("is no JSON Pointer (RFC 6901): \"/data/token\"")
            }
            _ => Pointer::parse(text),
        };
        let member = |key: &str| table.parsed(key, parse).map(|found| found.value);
        let members = Members {
            within: within.into_iter().map(|found| found.value).collect(),
            access_token: member("access_token"),
            id_token: member("id_token"),
            refresh_token: member("refresh_token"),
            token_type: member("token_type"),
            expires_in: member("expires_in"),
            expires_at: member("expires_at"),
            refresh_expires_in: member("refresh_expires_in"),
            error: member("error"),
            error_description: member("error_description"),
        };
        let tokens = [
            ("access_token", &members.access_token),
            ("id_token", &members.id_token),
            ("refresh_token", &members.refresh_token),
        ];
        let place = |(key, pointer): (&str, &Option<Pointer>)| pointer.clone().or_else(|| Pointer::parse(key).ok());
        for (index, token) in tokens.into_iter().enumerate() {
            // of one value nobody would know which token it is
            if let Some(same) = tokens.into_iter().take(index).find(|other| place(*other) == place(token)) {
                let (at, other) = if table.has(token.0) { (token.0, same.0) } else { (same.0, token.0) };
                let complaint = Complaint::new(format!("is the place of {other}, too"), "give each its own");
                self.sink.error(&table.place_of(at), complaint);
            }
        }
        members
    }

    fn error_words(&self, table: &Table<'_>) -> ErrorWords {
        let Some(errors) = table.table("errors") else { return ErrorWords::default() };
        errors.only(&["sign_in", "sign_in_if_repeated", "again"]);
        let words = |key: &str| {
            let found = errors.array(key, |text| if text.is_empty() { Err("is empty") } else { Ok(text.to_owned()) });
            found.unwrap_or_default().into_iter().map(|word| word.value).collect()
        };
        const LISTS: [&str; 3] = ["sign_in", "sign_in_if_repeated", "again"];
        let lists: [Vec<String>; 3] = LISTS.map(words);
        for (index, list) in lists.iter().enumerate() {
            for (earlier, other) in LISTS.iter().zip(&lists).take(index) {
                if let Some(word) = list.iter().find(|word| other.contains(word)) {
                    let complaint =
                        Complaint::new(format!("has \"{word}\", which is in {earlier}, too"), "say it in one");
                    self.sink.error(&errors.place_of(LISTS[index]), complaint);
                }
            }
        }
        let [sign_in, sign_in_if_repeated, again] = lists;
        ErrorWords { sign_in, sign_in_if_repeated, again }
    }

    /// Those of every token request, in the order of their names, `resource` (RFC 8707 section 2.2) among them.
    /// `scopes_are_sent` says whether `scopes` are what `scope` would be.
    pub(super) fn parameters(
        &self,
        table: &Table<'_>,
        dialect: Dialect,
        form: &RequestForm,
        scopes_are_sent: bool,
        resource: &[String],
    ) -> Vec<(String, String)> {
        let mut pairs: Vec<_> = resource.iter().map(|uri| ("resource".to_owned(), uri.clone())).collect();
        if resource.len() > 1 && dialect.takes_each_parameter_once() {
            self.sink.error(&table.place_of("resource"), once());
        }
        if !resource.is_empty() && form.names.iter().any(|(_, theirs)| theirs == "resource") {
            let remedy = "give what token_request.names calls so another name";
            let complaint = Complaint::new("is the name of another parameter here (token_request.names)", remedy);
            self.sink.error(&table.place_of("resource"), complaint);
        }
        let Some(parameters) = table.table("parameters") else { return pairs };
        for name in parameters.keys() {
            let place = parameters.place_of(&name);
            let is_set = |known: &str| GRANT_PARAMETERS.contains(&known);
            let renamed = form.names.iter().find(|(known, theirs)| *theirs == name && is_set(known));
            let is_scope = form.names.iter().find(|(known, _)| known == "scope").map_or("scope", |(_, theirs)| theirs);
            if name.is_empty() {
                self.sink.error(&place, "is no name");
            } else if is_set(&name) || dialect.sets_itself(&name) {
                self.sink.error(&place, "is a parameter that the grant sets itself");
            } else if let Some((known, _)) = renamed {
                let message =
                    format!("is what {known} is called here (token_request.names), which the grant sets itself");
                self.sink.error(&place, Complaint::new(message, "take it out, or give that another name"));
            } else if name == is_scope && scopes_are_sent {
                let remedy = "say it in one of the two places";
                self.sink.error(&place, Complaint::new("is what `scopes` are sent as already", remedy));
            }
            if name == "resource" && !resource.is_empty() {
                let remedy = "say it in one of the two places";
                self.sink.error(&place, Complaint::new("is what `resource` is sent as already", remedy));
            }
            let values = parameters.one_or_several(&name, |text| Ok::<_, Complaint>(text.to_owned()));
            let values = values.unwrap_or_default();
            if values.len() > 1 && dialect.takes_each_parameter_once() {
                self.sink.error(&place, once());
            }
            pairs.extend(values.into_iter().map(|found| (name.clone(), found.value)));
        }
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other)); // stable: what is said several times stays in its order
        pairs
    }
}

fn once() -> Complaint {
    let remedy = "name one, or say grant = \"refresh_token\"";
    Complaint::new("is a list, and Cognito's API takes each parameter once", remedy)
}
