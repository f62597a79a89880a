//! What Slurm says of a step: lists of hosts and of tasks per node, in their short forms.

use crate::error::Reason;

/// The first host of a list such as `n[03-10,12],login1`. Only the first: rank 0 runs there.
pub(crate) fn first_host(list: &str) -> Result<String, Reason> {
    let malformed = || Reason::Environment(format!("the list of hosts {list:?} has no first host"));
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let stop = rest.find(['[', ',']).unwrap_or(rest.len());
        host.push_str(&rest[..stop]);
        rest = &rest[stop..];
        let Some(brackets) = rest.strip_prefix('[') else { break };
        let close = brackets.find(']').ok_or_else(malformed)?;
        let first = brackets[..close].split([',', '-']).next().unwrap_or_default();
        if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        host.push_str(first);
        rest = &brackets[close + 1..];
    }
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == ']') {
        Err(malformed())
    } else {
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_hosts() {
        for (list, host) in [
            ("n0", "n0"),
            ("n0,n1", "n0"),
            ("n[0-1]", "n0"),
            ("n[003-010,012],login1", "n003"),
            ("rack[1-2]node[07-08]", "rack1node07"),
            ("a-b.example,c", "a-b.example"),
            ("gpu[5]-ib,x", "gpu5-ib"),
        ] {
            assert_eq!(first_host(list).as_deref(), Ok(host));
        }
        for list in ["", "[", "n[", "n[]", "n[a]", "n[-3]", ",n", "n]", "a b"] {
            assert!(first_host(list).is_err(), "{list:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(list in "[\\[\\],a-c0-9. -]{0,40}") {
            let _ = first_host(&list);
        }
    }
}
