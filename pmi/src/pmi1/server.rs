//! The side of a launcher: a pure state machine, driven by `ironband run` and by rank 0 of jobs without a launcher.
//!
//! It differs from others in two things: when a process ends that others wait for, they are told which, at once; and those who have
//! waited too long may ask who has not come (`get_missing`). Who can ask is told by `server=ironband` in the answer to a greeting.

use std::collections::BTreeMap;

use crate::record::Record;

/// The longest key and value that are stored, their end included.
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 4096;
/// The values of one process, so that it cannot eat the server's memory.
const VALUES_PER_RANK_MAX: usize = 4096;

/// What the server wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this line, whose end is in it.
    Answer {
        /// To this rank.
        rank: u32,
        /// The line.
        line: String,
    },
    /// End all processes: one has asked for it.
    Abort {
        /// This one.
        rank: u32,
        /// With this exit status.
        code: i32,
        /// And these words; may be empty.
        message: String,
    },
    /// This rank has broken the protocol; close its connection.
    Close {
        /// Which.
        rank: u32,
        /// How.
        why: String,
    },
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Has said nothing yet.
    Silent,
    Running,
    InBarrier,
    Finalized,
    /// Its connection has ended, and it had not finalized.
    Gone,
}

/// Serves one job.
#[derive(Debug)]
pub struct Server {
    stages: Vec<Stage>,
    stored: Vec<usize>,
    values: BTreeMap<String, String>,
    space: String,
}

impl Server {
    /// For `size` processes, of which `node_of` says which node each runs on, if it is known.
    pub fn new(size: u32, space: &str, process_mapping: Option<&str>) -> Self {
        let mapping = process_mapping.map(|text| ("PMI_process_mapping".to_owned(), text.to_owned()));
        Self {
            stages: vec![Stage::Silent; size as usize],
            stored: vec![0; size as usize],
            values: mapping.into_iter().collect(),
            space: space.to_owned(),
        }
    }

    /// True when every process has finalized or is gone.
    pub fn is_over(&self) -> bool {
        self.stages.iter().all(|stage| matches!(stage, Stage::Finalized | Stage::Gone))
    }

    /// True for a process that has greeted and not finalized: if it ends now, the job has failed.
    pub fn is_inside(&self, rank: u32) -> bool {
        matches!(self.stages[rank as usize], Stage::Running | Stage::InBarrier)
    }

    /// A line of `rank`, without its end.
    ///
    /// # Panics
    /// When the job has no such rank.
    pub fn handle(&mut self, rank: u32, text: &str) -> Vec<Action> {
        let close = |why: String| vec![Action::Close { rank, why }];
        let line = match Record::of_line(text) {
            Ok(line) => line,
            Err(reason) => return close(reason.to_string()),
        };
        let answer = |text: String| vec![Action::Answer { rank, line: text + "\n" }];
        let stage = self.stages[rank as usize];
        match (line.command(), stage) {
            ("init", Stage::Silent) => {
                self.stages[rank as usize] = Stage::Running;
                // 1.1 is what is spoken, whatever is asked for: the client decides.
                let rc = if line.get("pmi_version") == Some("1") { 0 } else { -1 };
                answer(format!("cmd=response_to_init pmi_version=1 pmi_subversion=1 rc={rc} server=ironband"))
            }
            ("get_missing", Stage::Running | Stage::InBarrier) => {
                answer(format!("cmd=missing ranks={}", self.ranks(|stage| *stage != Stage::InBarrier)))
            }
            ("abort", _) => vec![Action::Abort {
                rank,
                code: line.number("exitcode").unwrap_or(1),
                message: line.get("message").unwrap_or_default().replace('_', " "),
            }],
            (command, Stage::Running) => {
                self.serve(rank, command, &line).map_or_else(close, |text| match text {
                    Some(text) => {
                        let mut actions = answer(text);
                        // Who has finalized does not come to the barrier that others are in.
                        if command == "finalize" {
                            actions.extend(self.look_at_barrier());
                        }
                        actions
                    }
                    None => self.enter_barrier(rank),
                })
            }
            (command, stage) => close(format!("{command:?} from a process that is {stage:?}")),
        }
    }

    /// The answer to a request; none for a barrier. The error is why the connection must be closed.
    fn serve(&mut self, rank: u32, command: &str, line: &Record) -> Result<Option<String>, String> {
        Ok(Some(match command {
            "get_maxes" => format!(
                "cmd=maxes kvsname_max={} keylen_max={KEY_BYTES_MAX} vallen_max={VALUE_BYTES_MAX}",
                self.space.len() + 1
            ),
            "get_appnum" => "cmd=appnum appnum=0".to_owned(),
            "get_my_kvsname" => format!("cmd=my_kvsname kvsname={}", self.space),
            "get_universe_size" => format!("cmd=universe_size size={}", self.stages.len()),
            "put" => self.put(rank, line),
            "get" => self.get(line),
            "barrier_in" => return Ok(None),
            "finalize" => {
                self.stages[rank as usize] = Stage::Finalized;
                "cmd=finalize_ack rc=0".to_owned()
            }
            other => return Err(format!("this server does not know the command {other:?}")),
        }))
    }

    fn put(&mut self, rank: u32, line: &Record) -> String {
        let refuse = |why: &str| format!("cmd=put_result rc=-1 msg={why}");
        let (Some(key), Some(value)) = (line.get("key"), line.get("value")) else {
            return refuse("key_or_value_is_missing");
        };
        if line.get("kvsname") != Some(&self.space) {
            return refuse("kvsname_is_unknown");
        }
        if key.len() >= KEY_BYTES_MAX || value.len() >= VALUE_BYTES_MAX {
            return refuse("key_or_value_is_too_long");
        }
        if self.stored[rank as usize] >= VALUES_PER_RANK_MAX {
            return refuse("this_process_has_stored_too_many_values");
        }
        if self.values.contains_key(key) {
            return refuse("the_key_was_put_before");
        }
        self.stored[rank as usize] += 1;
        self.values.insert(key.to_owned(), value.to_owned());
        "cmd=put_result rc=0 msg=success".to_owned()
    }

    fn get(&self, line: &Record) -> String {
        let found = line
            .get("key")
            .filter(|_| line.get("kvsname") == Some(&self.space))
            .and_then(|key| self.values.get(key));
        match found {
            Some(value) => format!("cmd=get_result rc=0 msg=success value={value}"),
            None => "cmd=get_result rc=1 msg=there_is_no_such_key".to_owned(),
        }
    }

    /// The processes at such a stage, as they are told.
    fn ranks(&self, is_there: impl Fn(&Stage) -> bool) -> String {
        let there = self.stages.iter().enumerate().filter(|(_, stage)| is_there(stage));
        there.map(|(rank, _)| rank.to_string()).collect::<Vec<_>>().join(",")
    }

    fn enter_barrier(&mut self, rank: u32) -> Vec<Action> {
        self.stages[rank as usize] = Stage::InBarrier;
        self.look_at_barrier()
    }

    /// The connection of `rank` has ended.
    ///
    /// # Panics
    /// When the job has no such rank.
    pub fn gone(&mut self, rank: u32) -> Vec<Action> {
        let stage = &mut self.stages[rank as usize];
        if *stage != Stage::Finalized {
            *stage = Stage::Gone;
        }
        self.look_at_barrier()
    }

    /// Lets go those who wait, if all have come or some cannot come any more.
    fn look_at_barrier(&mut self) -> Vec<Action> {
        let in_barrier = |stage: &Stage| *stage == Stage::InBarrier;
        let never = self.ranks(|stage| matches!(stage, Stage::Gone | Stage::Finalized));
        let answer = if !never.is_empty() {
            let has = if never.contains(',') { "processes_have" } else { "a_process_has" };
            format!("cmd=barrier_out rc=1 missing={never} msg={has}_ended\n")
        } else if self.stages.iter().all(in_barrier) {
            "cmd=barrier_out rc=0\n".to_owned()
        } else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        for (rank, stage) in
            self.stages.iter_mut().enumerate().filter(|(_, stage)| **stage == Stage::InBarrier)
        {
            *stage = Stage::Running;
            actions.push(Action::Answer { rank: rank as u32, line: answer.clone() });
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn started(size: u32) -> Server {
        let mut server = Server::new(size, "kvs_1", Some("(vector,(0,1,9))"));
        for rank in 0..size {
            let actions = server.handle(rank, "cmd=init pmi_version=1 pmi_subversion=1");
            assert_eq!(
                answers(&actions),
                [(rank, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0 server=ironband\n")]
            );
        }
        server
    }

    fn answers(actions: &[Action]) -> Vec<(u32, &str)> {
        let one = |action| match action {
            &Action::Answer { rank, ref line } => (rank, line.as_str()),
            other => panic!("{other:?}"),
        };
        actions.iter().map(one).collect()
    }

    fn ask(server: &mut Server, rank: u32, text: &str) -> String {
        let actions = server.handle(rank, text);
        let [(to, line)] = answers(&actions)[..] else { panic!("{actions:?}") };
        assert_eq!(to, rank);
        line.trim_end().to_owned()
    }

    #[test]
    fn a_job_from_init_to_finalize() {
        let mut server = started(2);
        assert_eq!(
            ask(&mut server, 0, "cmd=get_maxes"),
            "cmd=maxes kvsname_max=6 keylen_max=128 vallen_max=4096"
        );
        assert_eq!(ask(&mut server, 0, "cmd=get_my_kvsname"), "cmd=my_kvsname kvsname=kvs_1");
        let put = "cmd=put kvsname=kvs_1 key=card value=abc";
        assert_eq!(ask(&mut server, 0, put), "cmd=put_result rc=0 msg=success");
        assert!(ask(&mut server, 1, put).contains("put_before"));
        assert_eq!(server.handle(0, "cmd=barrier_in"), []);
        let actions = server.handle(1, "cmd=barrier_in");
        assert_eq!(answers(&actions), [(0, "cmd=barrier_out rc=0\n"), (1, "cmd=barrier_out rc=0\n")]);
        assert_eq!(
            ask(&mut server, 1, "cmd=get kvsname=kvs_1 key=card"),
            "cmd=get_result rc=0 msg=success value=abc"
        );
        assert!(ask(&mut server, 1, "cmd=get kvsname=kvs_1 key=other").contains("rc=1"));
        assert!(ask(&mut server, 1, "cmd=get kvsname=else key=card").contains("rc=1"));
        assert_eq!(ask(&mut server, 0, "cmd=finalize"), "cmd=finalize_ack rc=0");
        assert!(!server.is_over() && server.is_inside(1) && !server.is_inside(0));
        assert_eq!(ask(&mut server, 1, "cmd=finalize"), "cmd=finalize_ack rc=0");
        assert!(server.is_over());
    }

    #[test]
    fn who_waits_is_told_who_cannot_come() {
        let mut server = started(4);
        assert_eq!(server.handle(0, "cmd=barrier_in"), []);
        let actions = server.gone(2);
        assert_eq!(answers(&actions), [(0, "cmd=barrier_out rc=1 missing=2 msg=a_process_has_ended\n")]);
        // Who comes later is told at once.
        let actions = server.handle(1, "cmd=barrier_in");
        assert_eq!(answers(&actions), [(1, "cmd=barrier_out rc=1 missing=2 msg=a_process_has_ended\n")]);
        assert!(ask(&mut server, 3, "cmd=finalize").contains("rc=0"));
        let actions = server.handle(0, "cmd=barrier_in");
        assert_eq!(answers(&actions), [(0, "cmd=barrier_out rc=1 missing=2,3 msg=processes_have_ended\n")]);
    }

    #[test]
    fn who_has_waited_too_long_may_ask_for_whom() {
        let mut server = started(3);
        assert_eq!(server.handle(0, "cmd=barrier_in"), []);
        assert_eq!(ask(&mut server, 0, "cmd=get_missing"), "cmd=missing ranks=1,2");
        assert_eq!(server.handle(2, "cmd=barrier_in"), []);
        assert_eq!(ask(&mut server, 0, "cmd=get_missing"), "cmd=missing ranks=1");
        // It was asked in the middle of the barrier, which goes on.
        let actions = server.handle(1, "cmd=barrier_in");
        assert_eq!(answers(&actions).len(), 3);
    }

    #[test]
    fn who_waits_is_told_who_has_finalized() {
        let mut server = started(2);
        assert_eq!(server.handle(1, "cmd=barrier_in"), []);
        let actions = server.handle(0, "cmd=finalize");
        let told = (1, "cmd=barrier_out rc=1 missing=0 msg=a_process_has_ended\n");
        assert_eq!(answers(&actions), [(0, "cmd=finalize_ack rc=0\n"), told]);
    }

    #[test]
    fn what_makes_no_sense_closes_one_connection() {
        let mut server = started(2);
        for text in ["", "cmd=spawn", "cmd=init pmi_version=1", "nonsense"] {
            assert!(matches!(&server.handle(0, text)[..], [Action::Close { rank: 0, .. }]), "{text:?}");
        }
        assert!(matches!(&Server::new(1, "k", None).handle(0, "cmd=barrier_in")[..], [Action::Close { .. }]));
        let long = format!("cmd=put kvsname=kvs_1 key=k value={}", "x".repeat(VALUE_BYTES_MAX));
        assert!(ask(&mut server, 1, &long).contains("too_long"));
        assert_eq!(
            server.handle(1, "cmd=abort exitcode=7 message=it_hurts"),
            [Action::Abort { rank: 1, code: 7, message: "it hurts".to_owned() }]
        );
    }

    proptest! {
        /// Whatever the processes say, in whatever order: no panic, and a barrier lets go all at once or tells who is missing.
        #[test]
        fn any_dialogue(said in proptest::collection::vec((0_u32..3, 0_usize..8), 0..60)) {
            let lines = [
                "cmd=init pmi_version=1 pmi_subversion=1", "cmd=barrier_in", "cmd=finalize", "cmd=get_maxes",
                "cmd=put kvsname=k key=a value=b", "cmd=get kvsname=k key=a", "x", "",
            ];
            let mut server = Server::new(3, "k", None);
            let mut waiting = [false; 3];
            for (rank, what) in said {
                let actions = if what == 7 { server.gone(rank) } else { server.handle(rank, lines[what]) };
                if what == 1 && !actions.iter().any(|action| matches!(action, Action::Close { .. })) {
                    prop_assert!(!waiting[rank as usize]);
                    waiting[rank as usize] = true;
                }
                if what == 7 {
                    waiting[rank as usize] = false;
                }
                let released: Vec<u32> = actions.iter().filter_map(|action| match action {
                    Action::Answer { rank, line } if line.contains("barrier_out") => Some(*rank),
                    _ => None,
                }).collect();
                for rank in &released {
                    prop_assert!(waiting[*rank as usize], "{rank} did not wait");
                    waiting[*rank as usize] = false;
                }
                if !released.is_empty() {
                    prop_assert_eq!(waiting, [false; 3]);
                }
            }
        }
    }
}
