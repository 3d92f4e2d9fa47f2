//! What stands on a command line more than once, read into its type.

use crate::config::{AccountId, KeyName, RouteName};
use crate::platform::users;

/// What is said of a word that is no name.
const NO_NAME: &str = "a name is 1 to 63 of a-z 0-9 - _ and begins with a letter or a digit";

/// Reads an account's name.
pub(super) fn parse_account(name: &str) -> Result<AccountId, &'static str> {
    AccountId::new(name).ok_or(NO_NAME)
}

/// Reads a route's name.
pub(super) fn parse_route(name: &str) -> Result<RouteName, &'static str> {
    RouteName::new(name).ok_or(NO_NAME)
}

/// Reads a user of this machine, by name or number: the user's id.
pub(super) fn parse_user(user: &str) -> Result<u32, &'static str> {
    users::id_of(user).ok_or("no user has this name in /etc/passwd; a number is taken as it is")
}

/// Reads a client key's name.
pub(super) fn parse_key(name: &str) -> Result<KeyName, &'static str> {
    KeyName::new(name).ok_or(NO_NAME)
}
