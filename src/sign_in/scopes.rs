//! The scopes that were asked for and not granted. Pure.
//!
//! They come back in any order, separated by blanks or commas, expanded, or not at all, which means "as asked" (RFC 6749
//! section 5.1): they are compared as sets, told to the person, and nothing fails by them.

/// What is missing of `asked` in `granted`. `came` says which scopes have shown themselves by what they bring.
pub(super) fn missing(asked: &[String], granted: Option<&str>, came: &[&str]) -> Vec<String> {
    let Some(granted) = granted else { return Vec::new() };
    let granted: Vec<&str> =
        granted.split(|c: char| c.is_whitespace() || c == ',').filter(|scope| !scope.is_empty()).collect();
    let is_there = |scope: &str| {
        granted.iter().any(|given| {
            // Google gives `https://www.googleapis.com/auth/userinfo.email` for `email`
            let ends_so = given.strip_suffix(scope).is_some_and(|before| before.ends_with(['/', '.']));
            given.eq_ignore_ascii_case(scope) || ends_so
        })
    };
    let is_missing = |scope: &&String| {
        // Microsoft's `/.default` stands for whatever was registered
        !is_there(scope) && !came.contains(&scope.as_str()) && !scope.ends_with("/.default")
    };
    asked.iter().filter(is_missing).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_compared_as_sets_whatever_separates_them() {
        type Row<'a> = (&'a str, &'a [&'a str], Option<&'a str>, &'a [&'a str], &'a [&'a str]);
        let rows: [Row<'_>; 10] = [
            ("nothing was said", &["a", "b"], None, &[], &[]),
            ("as asked", &["a", "b"], Some("a b"), &[], &[]),
            ("in another order, and more", &["a", "b"], Some("c b a"), &[], &[]),
            ("GitHub's commas", &["repo", "gist"], Some("repo,gist"), &[], &[]),
            ("fewer", &["repo", "gist"], Some("gist"), &[], &["repo"]),
            ("none", &["repo"], Some(""), &[], &["repo"]),
            ("a longer name is another", &["read"], Some("read:user"), &[], &["read"]),
            (
                "what has come need not be said",
                &["openid", "offline_access"],
                Some("x"),
                &["openid", "offline_access"],
                &[],
            ),
            ("Google's long names", &["email"], Some("https://www.googleapis.com/auth/userinfo.email"), &[], &[]),
            ("Microsoft's default", &["https://graph.microsoft.com/.default"], Some("User.Read"), &[], &[]),
        ];
        for (case, asked, granted, came, expected) in rows {
            let asked: Vec<String> = asked.iter().map(|&scope| scope.to_owned()).collect();
            assert_eq!(missing(&asked, granted, came), expected, "{case}");
        }
    }
}
