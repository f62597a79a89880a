//! The client against servers with the quirks of real ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::client::Client;
use crate::deadline::Deadline;
use crate::error::Reason;
use crate::exchange::Exchange;
use crate::fake::{Reply, of_lines, soon};
use crate::record::Record;

/// How a server differs from the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quirk {
    None,
    /// `cmd` comes last.
    Turned,
    /// Neither `rc` nor `msg`.
    Terse,
    /// A missing key is `rc=-1` with a value that is none (Slurm's, and others').
    Unknown,
    /// A missing key is `found=FALSE` (PMI-1.2).
    Found,
    /// A long value is cut, and that is a success (MPICH 4.0.2).
    Cuts,
    /// One byte at a time.
    Spells,
    /// Ends lines as other systems do.
    Returns,
}

const QUIRKS: [Quirk; 8] = [
    Quirk::None,
    Quirk::Turned,
    Quirk::Terse,
    Quirk::Unknown,
    Quirk::Found,
    Quirk::Cuts,
    Quirk::Spells,
    Quirk::Returns,
];

/// What this server calls the longest value.
const VALUE_BYTES_MAX: usize = 256;

/// Answers as a server of one process does.
fn serve(values: &mut BTreeMap<String, String>, line: &str, quirk: Quirk) -> String {
    let line = Record::of_line(line).unwrap();
    let success = if quirk == Quirk::Terse { "" } else { " rc=0 msg=success" };
    match line.command() {
        "init" => "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0".to_owned(),
        "get_maxes" => format!("cmd=maxes kvsname_max=256 keylen_max=64 vallen_max={VALUE_BYTES_MAX}"),
        "get_my_kvsname" => "cmd=my_kvsname kvsname=kvs_7_0".to_owned(),
        "put" => {
            let mut value = line.get("value").unwrap().to_owned();
            if quirk == Quirk::Cuts {
                value.truncate(VALUE_BYTES_MAX - 1);
            } else {
                assert!(value.len() < VALUE_BYTES_MAX, "the client must keep the bound");
            }
            values.insert(line.get("key").unwrap().to_owned(), value);
            format!("cmd=put_result{success}")
        }
        "get" => match (values.get(line.get("key").unwrap()), quirk) {
            (Some(value), Quirk::Found) => format!("cmd=get_result found=TRUE rc=0 value={value}"),
            (Some(value), _) => format!("cmd=get_result{success} value={value}"),
            (None, Quirk::Unknown) => "cmd=get_result rc=-1 msg=key_x_not_found value=unknown".to_owned(),
            (None, Quirk::Found) => "cmd=get_result found=FALSE rc=0".to_owned(),
            (None, _) => "cmd=get_result rc=1".to_owned(),
        },
        "barrier_in" => format!("cmd=barrier_out{success}"),
        "finalize" => format!("cmd=finalize_ack{success}"),
        other => panic!("{other}"),
    }
}

fn connected(quirk: Quirk) -> Client {
    let mut values = BTreeMap::new();
    if quirk != Quirk::Terse {
        values.insert("PMI_process_mapping".to_owned(), "(vector,(0,1,4))".to_owned());
    }
    let stream = of_lines(move |line| {
        let text = serve(&mut values, line, quirk);
        match quirk {
            Quirk::Turned => {
                let mut words: Vec<&str> = text.split(' ').collect();
                words.reverse();
                Reply::Say(format!("{}\n", words.join(" ")))
            }
            Quirk::Spells => Reply::Spell(text + "\n"),
            Quirk::Returns => Reply::Say(text + "\r\n"),
            _ => Reply::Say(text + "\n"),
        }
    });
    Client::start(stream, 1, 4, soon()).unwrap()
}

#[test]
fn every_quirk_is_survived() {
    for quirk in QUIRKS {
        let mut client = connected(quirk);
        for len_bytes in [0, 1, 150, 185, 190, 200, 1000, 3000] {
            let value: Vec<u8> = (0..len_bytes).map(|at| at as u8).collect();
            let key = format!("of-{len_bytes}");
            client.put(&key, &value, soon()).unwrap();
            client.fence(soon()).unwrap();
            assert_eq!(client.get(1, &key, soon()), Ok(Some(value)), "{quirk:?}, {len_bytes} bytes");
        }
        assert_eq!(client.get(2, "card", soon()), Ok(None), "{quirk:?}");
        assert_eq!(client.nodes(soon()).unwrap().is_some(), quirk != Quirk::Terse, "{quirk:?}");
        client.finalize(soon()).unwrap();
    }
}

#[test]
fn a_key_that_is_too_long_is_refused_here() {
    let mut client = connected(Quirk::None);
    let fault = client.put(&"k".repeat(60), b"x", soon()).unwrap_err();
    assert!(matches!(fault.reason, Reason::Misuse(_)), "{fault:?}");
}

/// Wherever the connection ends, or the server falls silent or mad: an error, in time, and all that follows fails at once.
#[test]
fn a_server_that_fails_at_any_step() {
    let steps = ["init", "get_maxes", "get_my_kvsname", "put", "barrier_in", "get", "finalize"];
    let limit = Duration::from_millis(40);
    type Failure = (fn() -> Reply, fn(&Reason) -> bool);
    let failures: [Failure; 5] = [
        (|| Reply::Close, |reason| *reason == Reason::Closed),
        (|| Reply::Hang, |reason| matches!(reason, Reason::TimedOut(_))),
        (|| Reply::Say("cmd=surprise\n".to_owned()), |reason| matches!(reason, Reason::Malformed(_))),
        (|| Reply::Say("\n".to_owned()), |reason| matches!(reason, Reason::Malformed(_))),
        (|| Reply::Say("x".repeat(1 << 20)), |reason| matches!(reason, Reason::Malformed(_))),
    ];
    for (fail, is_expected) in failures {
        for failing in steps {
            let mut values = BTreeMap::new();
            let stream = of_lines(move |line| {
                if Record::of_line(line).unwrap().command() == failing {
                    return fail();
                }
                Reply::Say(serve(&mut values, line, Quirk::None) + "\n")
            });
            let run = || -> Result<(), crate::error::Fault> {
                let within = || Deadline::after(limit);
                let mut client = Client::start(stream, 0, 1, within())?;
                let outcome = client.put("card", b"x", within());
                let outcome = outcome.and_then(|()| client.fence(within()));
                let outcome = outcome.and_then(|()| client.get(0, "card", within()).map(|_| ()));
                let outcome = outcome.and_then(|()| client.finalize(within()));
                let at = Instant::now();
                assert_eq!(
                    client.fence(soon()),
                    outcome,
                    "{failing}: all that follows fails in the same way"
                );
                assert!(at.elapsed() < Duration::from_secs(10));
                outcome
            };
            let fault = run().expect_err(failing);
            assert!(is_expected(&fault.reason), "{failing}: {fault:?}");
        }
    }
}

#[test]
fn a_server_that_speaks_another_version() {
    let stream =
        of_lines(|_| Reply::Say("cmd=response_to_init pmi_version=2 pmi_subversion=0 rc=-1\n".to_owned()));
    let fault = Client::start(stream, 0, 1, soon()).unwrap_err();
    assert!(matches!(&fault.reason, Reason::Refused(words) if words.contains("PMI-1.1")), "{fault:?}");
}

#[test]
fn a_fence_that_failed_names_who_is_missing() {
    let mut values = BTreeMap::new();
    let stream = of_lines(move |line| {
        if line == "cmd=barrier_in" {
            return Reply::Say("cmd=barrier_out rc=1 missing=2,5 msg=processes_have_ended\n".to_owned());
        }
        Reply::Say(serve(&mut values, line, Quirk::None) + "\n")
    });
    let fault = Client::start(stream, 0, 8, soon()).unwrap().fence(soon()).unwrap_err();
    assert_eq!(fault.missing, [2, 5]);
    assert_eq!(fault.reason, Reason::Incomplete("processes have ended".to_owned()));
}

/// Our own server is asked who has not come, once; even if the fence is let go meanwhile, it has failed.
#[test]
fn a_fence_that_took_too_long_names_who_has_not_come() {
    for (answer, missing) in [
        ("cmd=missing ranks=1,3\n", vec![1, 3]),
        ("cmd=barrier_out rc=0\ncmd=missing ranks=\n", vec![]),
        ("cmd=barrier_out rc=0\n", vec![]),
    ] {
        let mut values = BTreeMap::new();
        let mut asked = 0;
        let stream = of_lines(move |line| match line {
            "cmd=init pmi_version=1 pmi_subversion=1" => {
                Reply::Say(serve(&mut values, line, Quirk::None) + " server=ironband\n")
            }
            "cmd=barrier_in" => Reply::Say(String::new()),
            "cmd=get_missing" => {
                asked += 1;
                assert_eq!(asked, 1);
                Reply::Say(answer.to_owned())
            }
            line => Reply::Say(serve(&mut values, line, Quirk::None) + "\n"),
        });
        let mut client = Client::start(stream, 0, 4, soon()).unwrap();
        let limit = Duration::from_millis(50);
        let fault = client.fence(Deadline::after(limit)).unwrap_err();
        assert_eq!((fault.missing, fault.reason), (missing, Reason::TimedOut(limit)));
        assert_eq!(client.fence(soon()).unwrap_err().reason, Reason::TimedOut(limit));
    }
}

/// As MPICH's with `-pmi-port`: rank and size come over the connection, in any order.
#[test]
fn an_introduction_over_a_port() {
    for answer in [
        "cmd=initack rc=0\ncmd=set size=4\ncmd=set rank=2\ncmd=set debug=0\n",
        "cmd=set rank=2\ncmd=set debug=0\ncmd=initack\ncmd=set size=4\n",
    ] {
        let mut values = BTreeMap::new();
        let stream = of_lines(move |line| match line {
            "cmd=initack pmiid=5" => Reply::Say(answer.to_owned()),
            line => Reply::Say(serve(&mut values, line, Quirk::None) + "\n"),
        });
        assert_eq!(Client::introduce(stream, 5, None, soon()).unwrap().identity(), (2, 4));
    }
    for (answer, wanted) in [
        ("cmd=initack rc=-1 msg=this_is_another_job\n", "this is another job"),
        ("cmd=initack\ncmd=set size=4\ncmd=set debug=0\ncmd=set debug=0\n", "rank and size"),
        ("cmd=initack\ncmd=set size=4\ncmd=set rank=4\ncmd=set debug=0\n", "rank 4 of 4"),
        ("cmd=hello\n", "hello"),
    ] {
        let stream = of_lines(move |_| Reply::Say(answer.to_owned()));
        let fault = Client::introduce(stream, 5, None, soon()).unwrap_err();
        assert!(fault.reason.to_string().contains(wanted), "{fault:?}");
    }
}
