//! A network that is slower than this machine's: what a test does meanwhile happens in the middle of a transfer.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// Passes connections on, and what comes back no faster than so many bytes a second. Ends with the test's process.
///
/// # Panics
/// If it cannot listen.
#[must_use]
pub fn slow_line(to: &str, bytes_per_second: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address").to_string();
    let to = to.to_owned();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // Nobody listens: neither does this end.
            let Ok(far) = TcpStream::connect(&to) else { continue };
            let _ = pass(near, far, bytes_per_second);
        }
    });
    address
}

fn pass(near: TcpStream, far: TcpStream, bytes_per_second: u32) -> io::Result<()> {
    let (mut up, mut up_to) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut up, &mut up_to);
        let _ = up_to.shutdown(std::net::Shutdown::Both);
    });
    let (mut down, mut down_to) = (far, near);
    thread::spawn(move || {
        let mut piece = vec![0; 16 << 10];
        while let Ok(length @ 1..) = down.read(&mut piece) {
            thread::sleep(Duration::from_secs_f64(length as f64 / f64::from(bytes_per_second)));
            if down_to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = down_to.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}
