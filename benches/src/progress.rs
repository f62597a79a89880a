//! A progress bar on stderr, for runs longer than a second, when a person is looking.

use std::{
    cell::Cell,
    fs,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

/// Shorter runs show nothing.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// How long a row waits for mpirun to forward the erasing of the bar: stdout and stderr travel apart.
const FORWARDING_TIME: Duration = Duration::from_millis(20);

/// Programs that read a rank's stderr from a pipe and write it to their own.
const LAUNCHERS: [&str; 6] = ["mpirun", "mpiexec", "orterun", "prterun", "orted", "prted"];

/// How far a run has come. It draws between sizes only, never while something is measured.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    forwarded: bool,
    started: Instant,
    done: Cell<u64>,
    /// Drawn at least once. Until then the bar is not touched at all, because any change would draw it.
    shown: Cell<bool>,
}

impl Progress {
    /// Progress over `steps` sizes; invisible unless `wanted` and stderr ends in a terminal.
    pub fn new(steps: usize, wanted: bool) -> Self {
        let forwarded = wanted && !io::stderr().is_terminal() && is_forwarded_to_terminal();
        let target = match (wanted, forwarded) {
            (false, _) => ProgressDrawTarget::hidden(),
            (true, true) => ProgressDrawTarget::term_like(Box::new(ForwardedTerminal)),
            (true, false) => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} sizes, {elapsed}, now {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, forwarded, started: Instant::now(), done: Cell::new(0), shown: Cell::new(false) }
    }

    /// Measuring `size_bytes` begins.
    pub fn begin(&self, size_bytes: usize) {
        if self.started.elapsed() >= SHOWN_AFTER {
            self.shown.set(true);
            self.bar.set_message(format!("{size_bytes} bytes"));
            self.bar.set_position(self.done.get());
        }
    }

    /// Prints a row with the bar out of the way, and counts it.
    pub fn step<R>(&self, print: impl FnOnce() -> R) -> R {
        self.done.set(self.done.get() + 1);
        if !self.shown.get() || self.bar.is_hidden() {
            return print();
        }
        self.bar.suspend(|| {
            if self.forwarded {
                std::thread::sleep(FORWARDING_TIME);
            }
            print()
        })
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Under mpirun a rank's stderr is a pipe even when a person reads it: look where the launcher writes it.
fn is_forwarded_to_terminal() -> bool {
    let Some(parent) = rustix::process::getppid() else { return false };
    let parent = format!("/proc/{}", parent.as_raw_nonzero());
    let is_launcher =
        fs::read_to_string(format!("{parent}/comm")).is_ok_and(|name| LAUNCHERS.contains(&name.trim()));
    let own_is_pipe =
        fs::read_link("/proc/self/fd/2").is_ok_and(|link| link.to_string_lossy().starts_with("pipe:"));
    let theirs = fs::read_link(format!("{parent}/fd/2"));
    let ends_in_terminal =
        theirs.is_ok_and(|link| link.starts_with("/dev/pts") || link.starts_with("/dev/tty"));
    is_launcher && own_is_pipe && ends_in_terminal
}

/// A terminal at the other end of the launcher's pipe.
#[derive(Debug)]
struct ForwardedTerminal;

impl ForwardedTerminal {
    fn write(text: &str) -> io::Result<()> {
        io::stderr().write_all(text.as_bytes())
    }
}

impl TermLike for ForwardedTerminal {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        if lines == 0 { Ok(()) } else { Self::write(&format!("\x1b[{lines}A")) }
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        if lines == 0 { Ok(()) } else { Self::write(&format!("\x1b[{lines}B")) }
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        if columns == 0 { Ok(()) } else { Self::write(&format!("\x1b[{columns}C")) }
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        if columns == 0 { Ok(()) } else { Self::write(&format!("\x1b[{columns}D")) }
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        Self::write(&format!("{text}\r\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        Self::write(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        Self::write("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}
