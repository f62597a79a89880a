//! How an adapter is used, where there is a choice.

/// What a user may ask of a device; the default leaves all of it to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// One queue of receives for all peers (`Some(true)`), or one for each (`Some(false)`). `None`: shared where the adapter
    /// can and may share.
    pub shared_receive_queue: Option<bool>,
    /// How connections are made. All processes of a job have to do the same.
    pub connect: Connect,
}

/// How connections are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connect {
    /// By datagrams, and on iWARP, which has none, by the connection manager.
    #[default]
    Auto,
    /// By datagrams between the processes (InfiniBand, RoCE).
    Datagram,
    /// By the RDMA connection manager of the kernel (RoCE v2, iWARP).
    ConnectionManager,
}
