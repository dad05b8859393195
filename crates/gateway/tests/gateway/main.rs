//! A gateway between real sockets: backends that follow a script, and clients that send what they like.

mod balancing;
mod client;
mod everything;
mod failover;
mod hostile;
mod own;
mod running;
mod scripted;
mod streams;
