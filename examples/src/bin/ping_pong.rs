//! Two processes send a message back and forth; says how long one way takes, by length.
//!
//!     ironband run -n 2 target/release/ping_pong

use std::time::Instant;

use ironband::{Context, Error};

fn main() -> Result<(), Error> {
    let context = Context::open()?;
    if context.size() != 2 {
        context.abort(2, "ping_pong wants two processes: ironband run -n 2");
    }
    let peer = context.endpoint(1 - context.rank())?;
    if context.rank() == 0 {
        println!("{:>10} {:>12}", "bytes", "one way, us");
    }
    for len_bytes in (0..=22).map(|power| 1_usize << power) {
        let rounds = if len_bytes <= 8192 { 10_000 } else { 200 };
        let mut buffer = vec![0; len_bytes];
        let mut start = Instant::now();
        // A tenth more, to warm up.
        for round in 0..rounds + rounds / 10 {
            if round == rounds / 10 {
                start = Instant::now();
            }
            if context.rank() == 0 {
                peer.send(1, &buffer)?;
                peer.receive(1, &mut buffer)?;
            } else {
                peer.receive(1, &mut buffer)?;
                peer.send(1, &buffer)?;
            }
        }
        if context.rank() == 0 {
            let one_way = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds) / 2.0;
            println!("{len_bytes:>10} {one_way:>12.3}");
        }
    }
    context.close()
}
