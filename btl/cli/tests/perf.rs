//! `ironband perf` over shared memory: two real processes, every operation, both ways to meet.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

fn perf(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironband"));
    command.arg("perf").args(arguments).args(["--timeout", "120"]).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a run that succeeds.
fn output(arguments: &[&str]) -> String {
    let output = perf(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The rows below the head, as fields.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().skip_while(|line| !line.trim_start().starts_with("#bytes")).skip(1);
    lines.map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn latencies_have_perftest_s_columns() {
    let table = output(&["--op", "send", "--metric", "lat", "--size", "8,16K", "--iters", "50"]);
    let head = table.lines().find(|line| line.trim_start().starts_with("#bytes")).unwrap();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>().join(" "),
        "#bytes #iterations t_min[usec] t_max[usec] t_typical[usec] t_avg[usec] t_stdev[usec] 99% percentile[usec] 99.9% percentile[usec]"
    );
    for words in [
        "send latency: half of a round trip",
        "fabric shm: memfd",
        "clock",
        "announced, read by the receiver",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let rows = rows(&table);
    assert_eq!(rows.iter().map(|row| (row[0], row[1])).collect::<Vec<_>>(), [("8", "50"), ("16384", "50")]);
    for row in rows {
        let figures: Vec<f64> = row[2..].iter().map(|field| field.parse().unwrap()).collect();
        let [min, max, typical, average, _, p99, p999] = figures[..] else { panic!("{row:?}") };
        assert!(0.0 < min && min <= typical && typical <= p99 && p99 <= p999 && p999 <= max, "{row:?}");
        assert!(min <= average && average <= max, "{row:?}");
    }
}

#[test]
fn bandwidths_have_perftest_s_columns() {
    let table =
        output(&["--op", "write", "--metric", "bw", "--size", "4K:8K", "--iters", "200", "--depth", "16"]);
    let head = table.lines().find(|line| line.trim_start().starts_with("#bytes")).unwrap();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>().join(" "),
        "#bytes #iterations BW peak[MiB/sec] BW average[MiB/sec] MsgRate[Mpps]"
    );
    let rows = rows(&table);
    assert_eq!(rows.len(), 2);
    for row in rows {
        let figures: Vec<f64> = row.iter().map(|field| field.parse().unwrap()).collect();
        let [bytes, iterations, peak, average, rate] = figures[..] else { panic!("{row:?}") };
        assert_eq!(iterations, 200.0);
        assert!(peak >= average && average > 0.0, "{row:?}");
        assert!((rate * 1e6 * bytes / f64::from(1 << 20) / average - 1.0).abs() < 0.05, "{row:?}");
    }
}

#[test]
fn every_operation_moves_the_right_bytes() {
    for operation in ["send", "write", "read"] {
        for metric in ["lat", "bw", "rate"] {
            let arguments = [
                "--op",
                operation,
                "--metric",
                metric,
                "--size",
                "1,48,8K,9000,100K",
                "--iters",
                "30",
                "--check",
            ];
            assert_eq!(rows(&output(&arguments)).len(), 5, "{arguments:?}");
        }
    }
    for metric in ["lat", "bw", "rate"] {
        assert_eq!(
            rows(&output(&["--op", "atomic", "--metric", metric, "--iters", "500", "--check"])).len(),
            1
        );
    }
}

#[test]
fn a_spoilt_byte_is_found_and_named() {
    for operation in ["send", "write", "read"] {
        for (metric, size) in [("lat", "64"), ("bw", "64"), ("lat", "64K"), ("bw", "64K")] {
            let arguments = [
                "--op",
                operation,
                "--metric",
                metric,
                "--size",
                size,
                "--iters",
                "20",
                "--check",
                "--corrupt",
            ];
            let output = perf(&arguments);
            let said = text(&output.stderr);
            // What is read lies in the server, which is not told to spoil anything.
            if operation == "read" {
                assert!(output.status.success(), "{arguments:?}: {said}");
                continue;
            }
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            let middle = if size == "64" { "byte 32 is" } else { "byte 32768 is" };
            assert!(said.contains("wrong data") && said.contains(middle), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn json_has_the_same_figures() {
    let document = output(&["--json", "--op", "read", "--size", "8,4K", "--iters", "40", "--bind", "none"]);
    let document: serde_json::Value = serde_json::from_str(&document).expect("one document and nothing else");
    assert_eq!(document["format"], "ironband-perf/1");
    assert_eq!(document["fabric"], "shm");
    assert_eq!(document["plan"]["operation"], "read");
    assert_eq!(document["client"]["core"], serde_json::Value::Null);
    assert_eq!(document["rows"][1]["bytes"], 4096);
    assert_eq!(document["rows"][1]["iterations"], 40);
    assert!(document["rows"][1]["t_typical_us"].as_f64().unwrap() > 0.0);
    let document = output(&["--json", "--op", "send", "--metric", "rate", "--iters", "1000"]);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert!(document["rows"][0]["message_rate_mpps"].as_f64().unwrap() > 0.0);
    assert!(document["rows"][0]["peak_mib_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_duration_is_kept() {
    let start = std::time::Instant::now();
    let table = output(&["--size", "8", "--duration", "1", "--warmup", "0"]);
    assert!(start.elapsed().as_secs_f64() >= 1.0);
    assert!(rows(&table)[0][1].parse::<u64>().unwrap() > 10, "{table}");
}

/// Starts a side that listens, and gives it with its port.
fn listening(arguments: &[&str]) -> (std::process::Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ironband"))
        .args(["perf", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap().to_owned();
    (child, port)
}

#[test]
fn two_sides_meet_over_tcp() {
    let (mut server, port) = listening(&[]);
    // A stranger does not stop it.
    drop(std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
    let place = format!("localhost:{port}");
    let table = output(&[
        "--connect",
        &place,
        "--op",
        "send",
        "--metric",
        "bw",
        "--size",
        "8,64K",
        "--iters",
        "100",
        "-c",
    ]);
    assert_eq!(rows(&table).len(), 2);
    assert!(server.wait().unwrap().success());
    let mut said = String::new();
    server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("listening on"), "{said}");
}

#[test]
fn a_listener_notices_that_its_client_is_killed() {
    let (mut server, port) = listening(&[]);
    let mut client = Command::new(env!("CARGO_BIN_EXE_ironband"))
        .args(["perf", "--connect", &format!("127.0.0.1:{port}"), "--size", "8", "--duration", "600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    // The head is there when the connection is.
    assert!(lines.next().unwrap().unwrap().contains("ironband"));
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(!server.wait().unwrap().success());
    let mut said = String::new();
    server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("the peer at 127.0.0.1"), "{said}");
}

#[test]
fn bad_options_name_the_value_and_what_is_possible() {
    for (arguments, words) in [
        (&["--size", "0"][..], &["\"0\"", "1073741824"][..]),
        (&["--size", "64:8"], &["64:8"]),
        (&["--op", "atomic", "--size", "16"], &["--size 16", "8 bytes"]),
        (&["--op", "push"], &["push", "send, write, read, atomic"]),
        (&["--metric", "speed"], &["speed", "lat, bw, rate"]),
        (&["--iters", "0"], &["0", "1..=1000000000000"]),
        (&["--duration", "0"], &["0", "1..=86400"]),
        (&["--iters", "5", "--duration", "5"], &["cannot be used with"]),
        (&["--bind", "4096"], &["4096", "may use: "]),
        (&["--fabric", "tcp"], &["tcp", "shm, verbs"]),
        (&["--device", "mlx5_0"], &["mlx5_0", "memfd"]),
        (&["--peer-device", "mlx5_1"], &["the peer process", "mlx5_1", "memfd"]),
        (&["--listen", "70000"], &["70000", "65535"]),
        (&["--listen", "1", "--op", "send"], &["cannot be used with"]),
        (&["--connect", "localhost:0"], &["localhost:0", "65535"]),
        (&["--connect", "no.such.host.invalid"], &["no.such.host.invalid"]),
    ] {
        let output = perf(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let said = text(&output.stderr);
        for word in words {
            assert!(said.contains(word), "{arguments:?} lacks {word:?}: {said}");
        }
    }
}

#[test]
fn a_bad_parameter_of_the_environment_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_ironband"))
        .args(["perf", "--size", "8"])
        .env("IRONBAND_RING_BYTES", "5")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("ring_bytes"), "{}", text(&output.stderr));
}
