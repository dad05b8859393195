use crate::error::Error;

/// An event loop on the thread that waits for it. One thread reads tens of thousands of chunks a second, and on the machine
/// of the server it takes no more than it needs.
pub(crate) fn new() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(Error::Runtime)
}
