//! What an account says of its provider's own dialect: how token requests are written (`token_request`, `parameters`), where
//! responses hold what (`token_response`), what error codes mean (`errors`).

use super::header::token_request_field;
use super::problem::Complaint;
use super::read::Table;
use super::reader::Reader;
use super::secret_source::SecretSource;
use crate::oauth::{BodyFormat, ErrorWords, Members, Pointer, RequestForm, Vocabulary};

const FORMATS: &[(&str, BodyFormat)] = &[("form", BodyFormat::Form), ("json", BodyFormat::Json)];

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
        let mut names = Vec::new();
        if let Some(renamed) = table.table("names") {
            renamed.only(RENAMED);
            for known in RENAMED {
                names.extend(renamed.string(known).map(|theirs| ((*known).to_owned(), theirs.value)));
            }
        }
        let headers = table.table("headers").map(|headers| self.added_fields(&headers, token_request_field));
        TokenRequestSettings { form: RequestForm { format, names }, headers: headers.unwrap_or_default() }
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
        let member = |key: &str| {
            let parse = |text: &str| if text.is_empty() { Err("is empty") } else { Pointer::parse(text) };
            table.parsed(key, parse).map(|found| found.value)
        };
        Members {
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
        }
    }

    fn error_words(&self, table: &Table<'_>) -> ErrorWords {
        let Some(errors) = table.table("errors") else { return ErrorWords::default() };
        errors.only(&["sign_in", "sign_in_if_repeated", "again"]);
        let words = |key: &str| {
            let found = errors.array(key, |text| if text.is_empty() { Err("is empty") } else { Ok(text.to_owned()) });
            found.unwrap_or_default().into_iter().map(|word| word.value).collect()
        };
        let [sign_in, sign_in_if_repeated, again] = ["sign_in", "sign_in_if_repeated", "again"].map(words);
        ErrorWords { sign_in, sign_in_if_repeated, again }
    }

    /// Those of every token request, in the order of their names, `resource` (RFC 8707 section 2.2) among them.
    pub(super) fn parameters(
        &self,
        table: &Table<'_>,
        asks_for_scopes: bool,
        resource: &[String],
    ) -> Vec<(String, String)> {
        let mut pairs: Vec<_> = resource.iter().map(|uri| ("resource".to_owned(), uri.clone())).collect();
        let Some(parameters) = table.table("parameters") else { return pairs };
        for name in parameters.keys() {
            let place = parameters.place_of(&name);
            if GRANT_PARAMETERS.contains(&name.as_str()) {
                self.sink.error(&place, "is a parameter that the grant sets itself");
            }
            if name == "scope" && asks_for_scopes {
                let remedy = "say it in one of the two places";
                self.sink.error(&place, Complaint::new("is what `scopes` are sent as already", remedy));
            }
            if name == "resource" && !resource.is_empty() {
                let remedy = "say it in one of the two places";
                self.sink.error(&place, Complaint::new("is what `resource` is sent as already", remedy));
            }
            let values = parameters.one_or_several(&name, |text| Ok::<_, Complaint>(text.to_owned()));
            pairs.extend(values.unwrap_or_default().into_iter().map(|found| (name.clone(), found.value)));
        }
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other)); // stable: what is said several times stays in its order
        pairs
    }
}
