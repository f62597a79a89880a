//! `ironband info` on the machine that runs the tests.

use serde_json::Value;
use std::process::{Command, Output};

/// Runs the program with no setting but those given.
fn info(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironband"));
    command.arg("info").args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("IRONBAND_")) {
        command.env_remove(name);
    }
    command.envs(settings.iter().copied()).output().unwrap()
}

fn document(arguments: &[&str], settings: &[(&str, &str)]) -> Value {
    let output = info(&[&["--json"], arguments].concat(), settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn parameter<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["parameters"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
}

#[test]
fn the_text_is_whole_and_fits_the_screen() {
    let output = info(&["-n", "3"], &[]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "Topology",
        "Fabric shm, device memfd",
        "eager limit",
        "What a job with 3 ranks",
        "btl_ironband_ring_bytes",
    ] {
        assert!(text.contains(wanted), "no {wanted} in\n{text}");
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn the_document_tells_of_a_device_that_was_really_used() {
    let document = document(&["-n", "4"], &[]);
    assert_eq!((&document["format"], &document["ranks"]), (&"ironband-info/1".into(), &4.into()));
    let device = &document["fabrics"][0]["devices"][0];
    assert_eq!(document["fabrics"][0]["name"], "shm");
    assert_eq!(device["state"], "usable", "{device}");
    assert!(device["inline_bytes_max"].as_u64().unwrap() >= 40, "{device}");
    assert_eq!(device["atomics"], "global");
    assert!(device["report"].as_str().unwrap().starts_with("fabric shm, device memfd, "), "{device}");
    let memory = &device["memory"]["Ok"];
    assert!(memory["ring_region_bytes"].as_u64() > device["ring_bytes"].as_u64(), "{device}");
    assert_eq!(document["choice"]["device"], device["name"]);
    assert!(document["topology"]["Ok"]["processors"].as_u64().unwrap() >= 1, "{}", document["topology"]);
    // What the attempt between two processes gave decides what is announced.
    let announced = document["choice"]["long_messages"]["mechanism"].as_str().unwrap();
    let worked = ["plain", "with_consent"]
        .iter()
        .any(|attempt| document["cross_memory"][attempt]["outcome"] == "worked");
    assert_eq!(announced, if worked { "measured" } else { "ring" });
}

#[test]
fn the_environment_is_in_force() {
    let defaults = document(&["-n", "2"], &[]);
    let entry = parameter(&defaults, "ring_bytes");
    assert_eq!((&entry["value"], &entry["from_environment"]), (&entry["default"], &false.into()));
    let settings = [("IRONBAND_RING_BYTES", "1M"), ("IRONBAND_SINGLE_COPY", "ring")];
    let changed = document(&["-n", "2"], &settings);
    let entry = parameter(&changed, "ring_bytes");
    assert_eq!((&entry["value"], &entry["from_environment"]), (&(1 << 20).into(), &true.into()));
    assert_eq!(entry["mca_name"], "btl_ironband_ring_bytes");
    let device = &changed["fabrics"][0]["devices"][0];
    assert_eq!(device["ring_bytes"], 1 << 20);
    assert_eq!(device["one_sided"], false);
    let announced = &changed["choice"]["long_messages"];
    assert_eq!(announced["mechanism"], "ring");
    assert!(announced["why"].as_str().unwrap().contains("single_copy = ring"), "{announced}");
}

#[test]
fn many_ranks_get_smaller_rings() {
    let device = |ranks| document(&["-n", ranks], &[])["fabrics"][0]["devices"][0]["ring_bytes"].clone();
    assert!(device("4000").as_u64() < device("2").as_u64());
}

#[test]
fn a_bad_value_is_refused_with_name_value_and_range() {
    let cases = [
        (
            "IRONBAND_EAGER_BYTES",
            "12",
            "eager_bytes = \"12\" is refused: it must be auto, or 1024 to 262144 bytes",
        ),
        ("IRONBAND_SINGLE_COPY", "knem", "single_copy = \"knem\" is refused: it must be auto, cma, ring"),
        ("IRONBAND_RING_BYTES", "100000", "ring_bytes = \"100000\" is refused: it must be a power of two"),
        ("IRONBAND_PORTS", "rxe0:0", "\"rxe0:0\" names port 0, and ports are counted from 1; write rxe0:1"),
        ("IRONBAND_GID_INDEX", "256", "gid_index = \"256\" is refused: it must be auto, or 0 to 255"),
    ];
    let cases = cases.map(|(name, value, wanted)| (vec![(name, value)], wanted)).into_iter();
    let both = vec![("IRONBAND_EAGER_BYTES", "100K"), ("IRONBAND_RING_BYTES", "256K")];
    for (values, wanted) in cases.chain([(both, "is refused with ring_bytes = 262144")]) {
        let output = info(&[], &values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[cfg(feature = "verbs")]
#[test]
fn rdma_is_shown_or_the_reason_why_there_is_none() {
    let document = document(&[], &[]);
    let rdma = &document["rdma"];
    assert_eq!(rdma["built"], true);
    assert!(rdma["library"].as_str().is_some_and(|path| path.contains("libibverbs.so")), "{rdma}");
    let usable = rdma["order"].as_array().unwrap();
    assert_eq!(usable.is_empty(), rdma["not_ready"]["fix"].is_string(), "{rdma}");
    assert_eq!(usable.first(), document["remote"]["Ok"].get("device"), "{document}");
    let verbs =
        document["fabrics"].as_array().unwrap().iter().find(|fabric| fabric["name"] == "verbs").unwrap();
    let ports: usize =
        rdma["adapters"].as_array().unwrap().iter().map(|it| it["ports"].as_array().unwrap().len()).sum();
    assert_eq!(verbs["devices"].as_array().unwrap().len(), ports, "the fabric lists the same ports");
}

#[cfg(feature = "verbs")]
#[test]
fn a_port_that_is_not_there_is_refused_with_the_fix() {
    let document = document(&[], &[("IRONBAND_PORTS", "nosuch9:1")]);
    let refused = &document["rdma"]["ports_refused"];
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("ports = \"nosuch9:1\": there is no adapter \"nosuch9\""), "{refused}");
    assert!(refused["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{refused}");
    assert_eq!(document["remote"]["Err"], *refused);
    let verbs =
        document["fabrics"].as_array().unwrap().iter().find(|fabric| fabric["name"] == "verbs").unwrap();
    assert_eq!(verbs["devices"][0]["state"], "unusable", "{verbs}");
    assert!(verbs["devices"][0]["reason"].as_str().unwrap().starts_with(message), "{verbs}");
}
