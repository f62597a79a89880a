//! The first program: each process says hello to the next one. It is also in README.md, "From Rust".
//!
//!     ironband run -n 3 target/release/hello
//!
//! `mpirun -np 3 target/release/hello` does the same; alone, a process greets itself.

use ironband::{Context, Error, Pattern};

fn main() -> Result<(), Error> {
    let context = Context::open()?;
    let (rank, size) = (context.rank(), context.size());
    let next = context.endpoint((rank + 1) % size)?;
    let request = context.start_receive(Pattern::any_source(7), vec![0_u8; 100])?;
    next.send(7, format!("hello from {rank} of {size}").as_bytes())?;
    let (bytes, received) = request.wait()?;
    let text = String::from_utf8_lossy(&bytes[..received.len_bytes as usize]);
    println!("rank {rank} got: {text}");
    context.close()
}
