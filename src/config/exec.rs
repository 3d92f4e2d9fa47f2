//! What the commands of `valetd exec` need that insist on a provider's own hosts: data of its preset.

use super::problem::Complaint;
use super::read::Table;
use super::reader::Reader;

/// What a command needs that insists on the provider's own hosts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct ExecSettings {
    /// Whether `exec` with a route of this account is `exec --intercept`.
    pub intercept: bool,
    /// What the command's environment holds, so that its own sign-in is content. No secrets: `{placeholder_jwt}` stands for
    /// a token that is worth nothing.
    pub env: Vec<(String, String)>,
    /// Whether a command that asks the authorization server for a token is answered with such a one.
    pub placeholder_token: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn exec(&self, table: &Table<'a>) -> ExecSettings {
        let Some(exec) = table.table("exec") else { return ExecSettings::default() };
        exec.only(&["intercept", "env", "placeholder_token"]);
        let mut env = Vec::new();
        let table = exec.table("env");
        for (name, found) in table.iter().flat_map(|table| {
            let value = |name: String| {
                table.parsed(&name, |text| Ok::<_, Complaint>(text.to_owned())).map(|found| (name, found))
            };
            table.keys().into_iter().filter_map(value)
        }) {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
                self.sink.error(&found.place, "is not the name of an environment variable");
            } else if found.value.contains('\0') {
                self.sink.error(&found.place, Complaint::new("holds a NUL", "leave it out"));
            } else {
                env.push((name, found.value));
            }
        }
        ExecSettings {
            intercept: exec.boolean("intercept").unwrap_or(false),
            env,
            placeholder_token: exec.boolean("placeholder_token").unwrap_or(false),
        }
    }
}
