//! Ironband: a byte transfer layer on RDMA verbs and shared memory.
