//! Registered memory that is used again: never stale, never slow.
//!
//! An adapter moves bytes of registered memory only, and to register is a system call that pins each page. So registrations are
//! kept after their use. What is kept must go when the program unmaps the memory: the next mapping at the same address has other
//! pages, and the adapter would go on with the old ones.
//!
//! ```text
//!  acquire ──> hints (no lock) ───────────hit──> slot ──> Held
//!     │ miss                                     ▲
//!     └──────> interval map (lock) ─────hit──────┤
//!                   │ miss                       │
//!                   └──> Registrar::register ────┘
//!
//!  munmap, ... ──> unmaps (no lock) ──taken by the next acquire──> slots made bad ──held by nobody──> Registrar::deregister
//! ```
//!
//! - [`range`], [`interval`], [`clock`], [`limits`]: pure; so is [`policy`], but for the buffers that it remembers.
//! - [`slot`], [`unmaps`], [`gate`]: what threads share without a lock, and in which order; model-checked by loom. [`hints`]: what may be
//!   wrong.
//! - [`cache`]: puts them together. Generic over the [`Registrar`], so that tests register with something that can tell when a
//!   registration is stale.
//!
//! Prior art, and what is different here, is in ARCHITECTURE.md ("Registrations").

mod cache;
mod clock;
mod gate;
mod hints;
mod interval;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod libc_patch;
mod limits;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod losses;
mod policy;
mod range;
mod slab;
mod slot;
pub(crate) mod source;
mod statistics;
mod sync;
mod ucm;
mod unmaps;

pub use cache::{Held, Registrar, RegistrationCache};
pub use limits::CacheLimits;
pub use statistics::Statistics;

pub(crate) use limits::Machine;
pub(crate) use policy::{Calibration, Touched};
pub(crate) use range::PAGE_BYTES;

/// For those who tell this process of unmapped memory. A registration must not outlive its pages, so nothing is cached unless somebody
/// does, and is seen to.
pub mod unmap_events {
    pub use super::source::{NotPatched, around, offer, source, start_own, unmapping};
}
