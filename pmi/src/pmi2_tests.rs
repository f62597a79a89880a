//! The client against servers with the quirks of real ones.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::fake::{Reply, of_records, soon};
use crate::pmi2::{Client, framed};
use crate::record::Record;

fn serve(values: &mut BTreeMap<String, String>, text: &str) -> String {
    if text.starts_with("cmd=init ") {
        return "cmd=response_to_init pmi_version=2 pmi_subversion=0 rc=0\n".to_owned();
    }
    let record = Record::of_body(text).unwrap();
    framed(&match record.command() {
        "fullinit" => {
            "fullinit-response;rc=0;pmi-version=2;pmi-subversion=0;rank=1;size=3;appnum=0;debugged=FALSE;"
                .to_owned()
        }
        "job-getid" => "job-getid-response;jobid=job;;1;rc=0;".to_owned(),
        "kvs-put" => {
            let field = |name: &str| record.get(name).unwrap().to_owned();
            let (key, value) = (field("key"), field("value"));
            assert!(value.len() < 1024, "the client must keep the bound");
            values.insert(key, value);
            "kvs-put-response;rc=0;".to_owned()
        }
        "kvs-get" => {
            // MPICH's mpiexec ends when it is empty.
            assert_eq!(record.get("jobid"), Some("job;1"));
            match values.get(record.get("key").unwrap()) {
                Some(value) => format!("kvs-get-response;found=TRUE;value={value};rc=0;"),
                None => "kvs-get-response;found=FALSE;rc=0;".to_owned(),
            }
        }
        "kvs-fence" => "kvs-fence-response;rc=0;".to_owned(),
        "info-getjobattr" => "info-getjobattr-response;found=TRUE;value=(vector,(0,3,1));rc=0;".to_owned(),
        "finalize" => "finalize-response;rc=0;".to_owned(),
        other => panic!("{other}"),
    })
}

#[test]
fn a_job_from_init_to_finalize() {
    for spells in [false, true] {
        let mut values = BTreeMap::new();
        let stream = of_records(move |text| {
            let text = serve(&mut values, text);
            if spells { Reply::Spell(text) } else { Reply::Say(text) }
        });
        let mut client = Client::start(stream, 1, 3, None, soon()).unwrap();
        assert_eq!(client.identity(), (1, 3));
        for len_bytes in [0, 100, 765, 770, 5000] {
            let value = vec![len_bytes as u8; len_bytes];
            client.put(&format!("of-{len_bytes}"), &value, soon()).unwrap();
            client.fence(soon()).unwrap();
            assert_eq!(client.get(1, &format!("of-{len_bytes}"), soon()), Ok(Some(value)));
        }
        assert_eq!(client.get(0, "card", soon()), Ok(None));
        assert_eq!(client.nodes(soon()).unwrap().unwrap().node_of(2), 2);
        client.finalize(soon()).unwrap();
    }
}

#[test]
fn a_job_that_is_named_by_the_launcher() {
    let stream = of_records(|text| {
        if text.contains("cmd=fullinit") {
            assert!(text.contains("pmijobid=12.0;"), "{text}");
        }
        assert!(!text.contains("job-getid"), "it is known");
        Reply::Say(serve(&mut BTreeMap::new(), text))
    });
    Client::start(stream, 1, 3, Some("12.0"), soon()).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (answer, wanted) in [
        ("    -1cmd=kvs-fence-response;rc=0;", "no length"),
        ("999999cmd=kvs-fence-response;rc=0;", "no length"),
        ("   3 7", "no length"),
        ("     5cmd=a", "no end"),
        ("     6cmd=a;", "no answer"),
        ("    44cmd=kvs-fence-response;rc=2;errmsg=it_hurts;", "it hurts"),
    ] {
        let mut values = BTreeMap::new();
        let stream = of_records(move |text| {
            let is_fence = text.starts_with("cmd=kvs-fence");
            Reply::Say(if is_fence { answer.to_owned() } else { serve(&mut values, text) })
        });
        let fault = Client::start(stream, 1, 3, None, soon()).unwrap().fence(soon()).unwrap_err();
        assert!(fault.reason.to_string().contains(wanted), "{answer:?}: {fault:?}");
    }
}

#[test]
fn a_server_that_fails_at_any_step() {
    let within = || Deadline::after(Duration::from_millis(40));
    for failing in [
        "cmd=init ",
        "cmd=fullinit",
        "cmd=job-getid",
        "cmd=kvs-put",
        "cmd=kvs-fence",
        "cmd=kvs-get",
        "cmd=finalize",
    ] {
        for closes in [true, false] {
            let mut values = BTreeMap::new();
            let stream = of_records(move |text| match text.starts_with(failing) {
                true if closes => Reply::Close,
                true => Reply::Hang,
                false => Reply::Say(serve(&mut values, text)),
            });
            let run = || -> Result<(), Fault> {
                let mut client = Client::start(stream, 1, 3, None, within())?;
                client.put("card", b"x", within())?;
                client.fence(within())?;
                client.get(1, "card", within())?;
                client.finalize(within())
            };
            let reason = run().expect_err(failing).reason;
            assert_eq!(closes, reason == Reason::Closed, "{failing}: {reason:?}");
            assert_eq!(!closes, matches!(reason, Reason::TimedOut(_)), "{failing}: {reason:?}");
        }
    }
}

#[test]
fn a_server_that_speaks_pmi_1_only() {
    let answer = "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n";
    let stream = of_records(move |_| Reply::Say(answer.to_owned()));
    let fault = Client::start(stream, 0, 1, None, soon()).unwrap_err();
    assert!(fault.reason.to_string().contains("does not speak PMI-2"), "{fault:?}");
}
