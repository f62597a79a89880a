//! Both clients against what real launchers have said, word for word: `pmi/tests/dialogues`, whose README explains the files.
//!
//! A fake server answers a request with the words that its launcher has for it. It is stricter than any of them: a request must
//! come in one piece, alone, in at most 1024 bytes, and be one of those that were recorded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Fault, Reason};
use crate::exchange::Exchange;
use crate::fake::soon;
use crate::record::{LENGTH_BYTES, Record, body_bytes};
use crate::stream::Stream;
use crate::{pmi1, pmi2};

const CARDS: &str = "cards and a fence; a missing key";
const PMI_2: &str = "instead of start: PMI-2, rank 1";

/// What one launcher has said.
struct Dialogue {
    launcher: String,
    sections: BTreeMap<String, Vec<String>>,
}

impl Dialogue {
    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<Self> = files
            .filter(|path| path.extension().is_some_and(|end| end == "txt"))
            .map(|path| Self::read(&path))
            .collect();
        all.sort_by(|a, b| a.launcher.cmp(&b.launcher));
        let names: Vec<&str> = all.iter().map(|dialogue| dialogue.launcher.as_str()).collect();
        assert_eq!(names, ["impi", "mpich4", "mpich5", "mpich5-gforker", "mpich5-port", "slurm-pmi2"]);
        all
    }

    fn of(launcher: &str) -> Self {
        Self::all().into_iter().find(|dialogue| dialogue.launcher == launcher).unwrap()
    }

    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut parts = text.split("\n== ");
        let head = parts.next().unwrap();
        let launcher = head.lines().find_map(|line| line.strip_prefix("# launcher ")).unwrap().to_owned();
        let sections = parts.map(|part| {
            let (title, lines) = part.split_once('\n').unwrap();
            (title.to_owned(), lines.lines().filter(|line| !line.is_empty()).map(written_out).collect())
        });
        Self { launcher, sections: sections.collect() }
    }

    /// What followed the request that begins so: answers, or what happened (`! `).
    fn after(&self, title: &str, request: &str) -> Vec<&str> {
        let lines = &self.sections[title];
        let at = lines
            .iter()
            .position(|line| line.strip_prefix("> ").is_some_and(|said| said.starts_with(request)));
        let at = at.unwrap_or_else(|| panic!("{}: {title}: no {request:?}", self.launcher));
        lines[at + 1..].iter().take_while(|line| !line.starts_with("> ")).map(String::as_str).collect()
    }

    /// The answers to it.
    fn answer(&self, title: &str, request: &str) -> String {
        let lines = self.after(title, request);
        lines.iter().filter_map(|line| line.strip_prefix("< ")).map(|line| format!("{line}\n")).collect()
    }

    /// How much is left of a value of 1024 bytes; none if it is lost.
    fn value_bytes_kept(&self) -> Option<usize> {
        let answer = self.answer("a value as long as vallen_max says", "cmd=get ");
        let answer = Record::of_line(&answer).unwrap();
        answer.is_found().then(|| answer.get("value").unwrap().len())
    }
}

/// `{v*1000}` as it was said.
fn written_out(line: &str) -> String {
    let Some((before, rest)) = line.split_once('{') else { return line.to_owned() };
    let (inside, after) = rest.split_once('}').unwrap();
    let (what, count) = inside.split_once('*').unwrap();
    format!("{before}{}{after}", what.repeat(count.parse().unwrap()))
}

/// A server of PMI-1 with the words of its launcher. After `deadly`, if there is one, the next fence goes as in that section.
/// Every request is told.
fn serve(dialogue: Dialogue, deadly: Option<String>) -> (Stream, Receiver<String>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (tells, told) = channel();
    std::thread::spawn(move || {
        let mut values = BTreeMap::new();
        let mut piece = [0; 64 * 1024];
        while let Ok(count @ 1..) = theirs.read(&mut piece) {
            assert!(count <= 1024, "{count} bytes at once, and Slurm reads 1024");
            let text = std::str::from_utf8(&piece[..count]).unwrap();
            let request = text.strip_suffix('\n').expect("a whole line");
            assert!(!request.contains('\n'), "one request at a time: {request:?}");
            tells.send(request.to_owned()).unwrap();
            let is_fence = request == "cmd=barrier_in";
            let answer = match &deadly {
                Some(title) if is_fence => match dialogue.after(title, request)[0] {
                    said if said.starts_with("< ") => dialogue.answer(title, request),
                    silent if silent.starts_with("! silent") => continue,
                    _ended => return,
                },
                _ => answer(&dialogue, &mut values, request),
            };
            theirs.write_all(answer.as_bytes()).unwrap();
        }
    });
    (Stream::new(ours.into()), told)
}

fn answer(dialogue: &Dialogue, values: &mut BTreeMap<String, String>, request: &str) -> String {
    let line = Record::of_line(request).unwrap();
    let field = |name: &str| line.get(name).unwrap_or_else(|| panic!("{request:?} has no {name}")).to_owned();
    match line.command() {
        "put" => {
            let (key, value) = (field("key"), field("value"));
            assert!(key.len() <= 63, "{key:?}: a key of 64 bytes is lost");
            assert!(!value.is_empty(), "MPICH 5 ends a job for it");
            assert_eq!(value.split_whitespace().collect::<String>(), value, "it is cut at the first space");
            let kept = dialogue.value_bytes_kept().unwrap_or(value.len());
            values.insert(key, value[..value.len().min(kept)].to_owned());
            dialogue.answer(CARDS, "cmd=put ")
        }
        "get" if field("key") == "PMI_process_mapping" => dialogue.answer(CARDS, request),
        "get" => match values.get(&field("key")) {
            Some(value) => {
                found(&dialogue.answer(CARDS, &request.replace(&field("key"), "card-1")), &card(), value)
            }
            None => dialogue.answer(CARDS, &request.replace(&field("key"), "no-such-key")),
        },
        "barrier_in" => dialogue.answer(CARDS, request),
        // As it was said, to the letter.
        _ => dialogue.answer("start", request),
    }
}

/// The value that was recorded as found.
fn card() -> String {
    "c".repeat(200)
}

fn found(answer: &str, recorded: &str, value: &str) -> String {
    assert!(answer.contains(&format!("value={recorded}")), "{answer}");
    answer.replace(&format!("value={recorded}"), &format!("value={value}"))
}

fn connected(dialogue: Dialogue, deadly: Option<String>) -> (pmi1::client::Client, Receiver<String>) {
    let introduces = dialogue.sections["start"][0].starts_with("> cmd=initack");
    let (stream, told) = serve(dialogue, deadly);
    let client = if introduces {
        pmi1::client::Client::introduce(stream, 0, None, soon()).unwrap()
    } else {
        pmi1::client::Client::start(stream, 0, 3, soon()).unwrap()
    };
    (client, told)
}

/// The nodes of three ranks, where the launcher tells.
fn nodes_of(launcher: &str) -> Option<[u32; 3]> {
    match launcher {
        "mpich5-gforker" => None,
        "slurm-pmi2" => Some([0, 0, 1]),
        _ => Some([0, 0, 0]),
    }
}

fn goes_through_a_job(client: &mut impl Exchange, launcher: &str) {
    for len_bytes in [0, 1, 150, 200, 700, 740, 760, 1000, 3100, 5000, 65_536] {
        let value: Vec<u8> = (0..len_bytes).map(|at| (at * 7) as u8).collect();
        let key = format!("of-{len_bytes}");
        client.put(&key, &value, soon()).unwrap();
        client.fence(soon()).unwrap();
        let (rank, _) = client.identity();
        assert_eq!(client.get(rank, &key, soon()), Ok(Some(value)), "{launcher}: {len_bytes} bytes");
    }
    assert_eq!(client.get(2, "nothing", soon()), Ok(None), "{launcher}");
    let nodes = client.nodes(soon()).unwrap();
    let nodes = nodes.map(|nodes| [0, 1, 2].map(|rank| nodes.node_of(rank)));
    assert_eq!(nodes, nodes_of(launcher), "{launcher}");
    client.finalize(soon()).unwrap();
}

#[test]
fn a_job_under_each_launcher() {
    for dialogue in Dialogue::all() {
        let launcher = dialogue.launcher.clone();
        let (mut client, told) = connected(dialogue, None);
        assert_eq!(client.identity(), (0, 3), "{launcher}");
        goes_through_a_job(&mut client, &launcher);
        drop(client);
        let told: Vec<String> = told.iter().collect();
        assert_eq!(told.last().map(String::as_str), Some("cmd=finalize"), "{launcher}");
        // A card of 200 bytes takes one request: what is said is not split further than the launcher needs.
        let parts = told.iter().filter(|request| request.contains("key=ironband-of-200-0")).count();
        assert_eq!(parts, 2, "{launcher}: put and get");
    }
}

/// Another process has ended or aborts: what happens to a fence under each launcher.
#[test]
fn a_fence_without_all_processes() {
    let limit = Duration::from_millis(60);
    for dialogue in Dialogue::all() {
        let titles: Vec<String> = dialogue.sections.keys().cloned().collect();
        let about = |title: &&String| title.starts_with("rank 1 ") || title.starts_with("abort of rank 1");
        let launcher = dialogue.launcher.clone();
        for title in titles.iter().filter(about) {
            // Some end it before it comes to that.
            if !dialogue.sections[title].iter().any(|line| line == "> cmd=barrier_in") {
                continue;
            }
            let said = dialogue.after(title, "cmd=barrier_in")[0].to_owned();
            let (mut client, told) = connected(Dialogue::of(&launcher), Some(title.clone()));
            client.put("card", b"here", soon()).unwrap();
            let outcome = client.fence(Deadline::after(limit)).map_err(|Fault { reason, .. }| reason);
            let expected = match said.as_str() {
                said if said.starts_with("< ") => Ok(()),
                said if said.starts_with("! silent") => Err(Reason::TimedOut(limit)),
                _ended => Err(Reason::Closed),
            };
            assert_eq!(outcome, expected, "{launcher}: {title}: {said}");
            if outcome.is_err() {
                // The old fence, where it goes on, must not be taken for a new one: nothing more is said.
                assert_eq!(
                    client.fence(soon()).map_err(|fault| fault.reason),
                    outcome,
                    "{launcher}: {title}"
                );
                assert!(client.get(0, "card", soon()).is_err() && client.finalize(soon()).is_err());
                let told: Vec<String> = told.try_iter().collect();
                assert_eq!(told.last().map(String::as_str), Some("cmd=barrier_in"), "{launcher}: {title}");
                assert_eq!(told.iter().filter(|request| *request == "cmd=barrier_in").count(), 1);
            }
        }
    }
}

/// What launchers answer to a version that they do not have is what the client takes for a refusal.
#[test]
fn a_version_that_is_refused() {
    let answer = Dialogue::of("slurm-pmi2").answer("instead of start: version 1.2", "cmd=init");
    let stream = crate::fake::of_lines(move |_| crate::fake::Reply::Say(answer.clone()));
    let fault = pmi1::client::Client::start(stream, 0, 3, soon()).unwrap_err();
    assert!(matches!(&fault.reason, Reason::Refused(words) if words.contains("PMI-1.1")), "{fault:?}");
}

/// A server of PMI-2 with the words of its launcher.
fn serve_records(dialogue: Dialogue) -> Stream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut values = BTreeMap::new();
        let mut line = [0; 1024];
        let count = theirs.read(&mut line).unwrap();
        let greeting = std::str::from_utf8(&line[..count]).unwrap().trim_end();
        theirs.write_all(dialogue.answer(PMI_2, greeting).as_bytes()).unwrap();
        let mut length = [0; LENGTH_BYTES];
        while theirs.read_exact(&mut length).is_ok() {
            let mut body = vec![0; body_bytes(&length).unwrap()];
            theirs.read_exact(&mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            let answer = answer_record(&dialogue, &mut values, &body);
            theirs.write_all(answer.trim_end_matches('\n').as_bytes()).unwrap();
        }
    });
    Stream::new(ours.into())
}

fn answer_record(dialogue: &Dialogue, values: &mut BTreeMap<String, String>, body: &str) -> String {
    let record = Record::of_body(body).unwrap();
    let field = |name: &str| record.get(name).unwrap_or_else(|| panic!("{body:?} has no {name}")).to_owned();
    match record.command() {
        "kvs-put" => {
            let value = field("value");
            assert!(!body.contains(";;"), "what is behind it is cut off: {body:?}");
            assert!(!value.is_empty() && value.len() < 1024 && field("key").len() < 64);
            values.insert(field("key"), value);
            dialogue.framed_answer("kvs-put;")
        }
        "kvs-get" => {
            // MPICH's mpiexec ends for an empty jobid.
            let request = |key: &str| format!("kvs-get;jobid={};srcid=-1;key={key};", field("jobid"));
            match values.get(&field("key")) {
                Some(value) => {
                    let answer = dialogue.framed_answer(&request("card-1"));
                    let (length, body) = answer.split_at(LENGTH_BYTES);
                    let body = found(body, "a", value);
                    let count = body.len().to_string();
                    // As the launcher aligns it.
                    if length.starts_with(' ') {
                        format!("{count:>6}{body}")
                    } else {
                        format!("{count:<6}{body}")
                    }
                }
                None => dialogue.framed_answer(&request("none")),
            }
        }
        "fullinit" => dialogue.framed_answer("fullinit;"),
        _ => dialogue.framed_answer(body.strip_prefix("cmd=").unwrap()),
    }
}

impl Dialogue {
    /// The answer to the PMI-2 request that begins so, behind `cmd=`.
    fn framed_answer(&self, request: &str) -> String {
        let request = format!("cmd={request}");
        let lines = &self.sections[PMI_2];
        let is_it = |line: &String| {
            line.strip_prefix("> ")
                .is_some_and(|said| said.get(LENGTH_BYTES..).is_some_and(|body| body.starts_with(&request)))
        };
        let at = lines.iter().position(is_it).unwrap_or_else(|| panic!("{}: no {request:?}", self.launcher));
        lines[at + 1].strip_prefix("< ").unwrap().to_owned()
    }
}

#[test]
fn a_job_by_pmi_2_under_each_launcher_that_has_it() {
    let mut seen = 0;
    for dialogue in Dialogue::all().into_iter().filter(|dialogue| dialogue.sections.contains_key(PMI_2)) {
        let launcher = dialogue.launcher.clone();
        let job = (launcher == "slurm-pmi2").then_some("1.0");
        let mut client = pmi2::Client::start(serve_records(dialogue), 1, 3, job, soon()).unwrap();
        assert_eq!(client.identity(), (1, 3), "{launcher}");
        goes_through_a_job(&mut client, &launcher);
        seen += 1;
    }
    assert_eq!(seen, 3);
}
