//! Which user ids the configuration's `clients` stand for.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group` alone, at every reload: asking the name service instead would
//! load its modules into the process that holds the tokens, and wait for directories over the network. Users of such
//! a directory are named by number: `user:12345`.

use std::collections::BTreeSet;
use std::io;
use std::sync::OnceLock;

use crate::config::AllowedClient;

/// The user ids of all these clients, and what could not be found, in sentences.
pub(crate) fn resolve(clients: &[AllowedClient]) -> (BTreeSet<u32>, Vec<String>) {
    let (uids, mut problems) = look_up(clients);
    let (uids, unknown) = identities(uids, shown_for_others(), is_shown(0));
    problems.extend(unknown);
    (uids, problems)
}

/// The user id that the kernel shows for everybody whom this process's user namespace does not know
/// (user_namespaces(7)), unless that is a user of the namespace: then everybody is known. It is nobody's identity.
pub(crate) fn shown_for_others() -> Option<u32> {
    static SHOWN: OnceLock<Option<u32>> = OnceLock::new();
    *SHOWN.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        let overflow = text.trim().parse().unwrap_or(65534);
        (!is_shown(overflow)).then_some(overflow)
    })
}

/// Whether a process of this user is seen as this user's here.
pub(crate) fn is_shown(uid: u32) -> bool {
    // without the file there are no user namespaces
    std::fs::read_to_string("/proc/self/uid_map").map_or(true, |map| is_in_map(&map, uid))
}

/// Whether a user id of the namespace stands for somebody: it is in one of the ranges of uid_map.
fn is_in_map(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [first, _, count] = numbers[..] else { return false };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

/// Those of the user ids that are somebody's here, and what is to be said about the others.
fn identities(mut uids: BTreeSet<u32>, others: Option<u32>, root_is_shown: bool) -> (BTreeSet<u32>, Vec<String>) {
    let mut problems = Vec::new();
    if let Some(others) = others
        && uids.remove(&others)
    {
        problems.push(format!(
            "clients: user {others} stands for everybody in valetd's user namespace (PrivateUsers=); nobody is let in by it"
        ));
    }
    if !root_is_shown && uids.remove(&0) {
        problems.push(
            "clients: root cannot be told from others in valetd's user namespace (PrivateUsers=); it needs a client key"
                .to_owned(),
        );
    }
    (uids, problems)
}

fn look_up(clients: &[AllowedClient]) -> (BTreeSet<u32>, Vec<String>) {
    if clients.iter().all(|client| matches!(client, AllowedClient::Own | AllowedClient::Root)) {
        return members(clients, super::peer::own_uid(), "", "");
    }
    let mut problems = Vec::new();
    let mut read = |path: &str| {
        let unreadable = |error: io::Error| problems.push(format!("clients: {path} cannot be read: {error}"));
        std::fs::read(path).map_err(unreadable).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let (passwd, group) = (read("/etc/passwd").unwrap_or_default(), read("/etc/group").unwrap_or_default());
    let (uids, unknown) = members(clients, super::peer::own_uid(), &passwd, &group);
    problems.extend(unknown);
    (uids, problems)
}

/// The name of a user, where `/etc/passwd` has one.
pub(crate) fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read("/etc/passwd").ok()?;
    let passwd = String::from_utf8_lossy(&passwd);
    users_of(&passwd).into_iter().find(|(_, found, _)| *found == uid).map(|(name, ..)| name.to_owned())
}

/// The id of a user, by the name in `/etc/passwd` or by its number.
pub(crate) fn id_of(user: &str) -> Option<u32> {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    id_in(&String::from_utf8_lossy(&passwd), user)
}

fn id_in(passwd: &str, user: &str) -> Option<u32> {
    let named = users_of(passwd).into_iter().find(|(name, ..)| *name == user).map(|(_, uid, _)| uid);
    named.or_else(|| user.parse().ok())
}

/// Name, uid and gid of each user (passwd(5)); lines that make no sense are nobody's.
fn users_of(passwd: &str) -> Vec<(&str, u32, u32)> {
    let user = |line| {
        let mut fields = str::split(line, ':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    passwd.lines().filter_map(user).collect()
}

/// Name, gid and listed members of each group (group(5)).
fn groups_of(group: &str) -> Vec<(&str, u32, &str)> {
    let group_of = |line| {
        let mut fields = str::split(line, ':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, fields.nth(1)?.parse().ok()?, fields.next()?))
    };
    group.lines().filter_map(group_of).collect()
}

/// The user ids of all who are in a group, whether it is listed or their primary one, from the texts of `/etc/passwd` and
/// `/etc/group`. `None` if that cannot be told: no such group there, or a member that is no user there.
pub(super) fn group_members(gid: u32, passwd: &str, group: &str) -> Option<BTreeSet<u32>> {
    let (users, groups) = (users_of(passwd), groups_of(group));
    let mut members: BTreeSet<u32> = users.iter().filter(|(.., own)| *own == gid).map(|(_, uid, _)| *uid).collect();
    let mut is_known = false;
    for (.., listed) in groups.iter().filter(|(_, number, _)| *number == gid) {
        is_known = true;
        for name in listed.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            members.insert(users.iter().find(|(user, ..)| *user == name)?.1);
        }
    }
    is_known.then_some(members)
}

/// The user ids of all these clients, from the two files' texts (passwd(5), group(5)).
fn members(clients: &[AllowedClient], own: u32, passwd: &str, group: &str) -> (BTreeSet<u32>, Vec<String>) {
    let (users, groups) = (users_of(passwd), groups_of(group));
    let uid_of = |user: &str| id_in(passwd, user);
    let (mut uids, mut unknown) = (BTreeSet::new(), Vec::new());
    for client in clients {
        match client {
            AllowedClient::Own => drop(uids.insert(own)),
            AllowedClient::Root => drop(uids.insert(0)),
            AllowedClient::User(user) => match uid_of(user) {
                Some(uid) => drop(uids.insert(uid)),
                None => unknown.push(format!("clients: no user is named \"{user}\" in /etc/passwd; nobody is let in")),
            },
            AllowedClient::Group(wanted) => {
                let number = wanted.parse::<u32>().ok();
                let Some((_, gid, listed)) = groups
                    .iter()
                    .find(|(name, ..)| name == wanted)
                    .or_else(|| groups.iter().find(|g| Some(g.1) == number))
                else {
                    unknown.push(format!("clients: no group is named \"{wanted}\" in /etc/group; nobody is let in"));
                    continue;
                };
                uids.extend(listed.split(',').filter(|user| !user.is_empty()).filter_map(uid_of));
                uids.extend(users.iter().filter(|(.., primary)| primary == gid).map(|(_, uid, _)| *uid));
            }
        }
    }
    (uids, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nalice:x:1001:1001::/:/bin/sh\n\
                          bob:x:1002:2000::/:/bin/sh\ngarbage\n:x:7:7\nodd:x:many:1:\n1003:x:1004:1004::/:\n";
    const GROUP: &str = "root:x:0:\ngis:x:2000:alice,carol\nempty:x:2001:\nbroken:x:\n";

    #[test]
    fn names_numbers_and_groups_become_user_ids() {
        let user = |name: &str| AllowedClient::User(name.to_owned());
        let group = |name: &str| AllowedClient::Group(name.to_owned());
        let rows: [(&str, Vec<AllowedClient>, &[u32], usize); 12] = [
            ("nobody", vec![], &[], 0),
            ("self", vec![AllowedClient::Own], &[1000], 0),
            ("root", vec![AllowedClient::Own, AllowedClient::Root], &[0, 1000], 0),
            ("root as a user", vec![user("root")], &[0], 0),
            ("root by number", vec![user("0")], &[0], 0),
            ("a user", vec![user("alice")], &[1001], 0),
            ("a number", vec![user("4711")], &[4711], 0),
            ("a name of digits is a name first", vec![user("1003")], &[1004], 0),
            ("a group: those listed and those whose own it is", vec![group("gis")], &[1001, 1002], 0),
            ("a group's number", vec![group("2000")], &[1001, 1002], 0),
            ("a group without members", vec![group("empty")], &[], 0),
            ("unknown ones let nobody in", vec![user("zoe"), group("zoo"), user("odd"), group("broken")], &[], 4),
        ];
        for (case, clients, expected, unknown) in rows {
            let (uids, problems) = members(&clients, 1000, PASSWD, GROUP);
            assert_eq!((uids.into_iter().collect::<Vec<_>>(), problems.len()), (expected.to_vec(), unknown), "{case}");
        }
    }

    #[test]
    fn whom_the_namespace_does_not_know_is_nobody() {
        for (case, map, others, root) in [
            ("the machine's own", "         0          0 4294967295\n", true, true),
            ("a service with PrivateUsers", "      1000       1000          1\n", false, false),
            ("a container without root", "0 1000 1\n1 100000 65536\n", true, true),
            ("a shell by unshare -r", "0 1000 1\n", false, true),
            ("without a map yet", "", false, false),
            ("garbage", "0 x 1\n7\n", false, false),
            ("just below", "0 0 65534\n", false, true),
            ("just so", "65534 7 1\n", true, false),
        ] {
            assert_eq!((is_in_map(map, 65534), is_in_map(map, 0)), (others, root), "{case}");
        }
        let uids = || BTreeSet::from([0, 1000, 65534]);
        assert_eq!(identities(uids(), None, true), (uids(), Vec::new()));
        let (left, said) = identities(uids(), Some(65534), false);
        assert_eq!((left, said.len()), (BTreeSet::from([1000]), 2));
        // not even where it is what the kernel calls ourselves
        assert_eq!(identities(BTreeSet::from([65534]), Some(65534), false).0, BTreeSet::new());
    }
}
