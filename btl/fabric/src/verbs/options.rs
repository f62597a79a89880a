//! How an adapter is used, where there is a choice.

pub use ironband_core::config::Connect;

/// What a user may ask of a device; the default leaves all of it to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// One queue of receives for all peers (`Some(true)`), or one for each (`Some(false)`). `None`: shared where the adapter
    /// can and may share.
    pub shared_receive_queue: Option<bool>,
    /// How connections are made. All processes of a job have to do the same.
    pub connect: Connect,
}
