//! A proxy that makes a server look distant: every run of bytes from a client waits before it goes on, so that each
//! request takes that much longer, as many at a time as there are connections. What comes back is not held up.
//!
//!     rustc -O scripts/delay.rs -o delay && ./delay 127.0.0.1:9001 127.0.0.1:9000 20
//!
//! Listens on the first address, connects to the second, waits the third, in milliseconds. Uses nothing but the standard
//! library, so that the benchmark can build it by itself.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, server, milliseconds] = arguments.as_slice() else {
        eprintln!("usage: delay LISTEN SERVER MILLISECONDS");
        std::process::exit(2);
    };
    let delay = Duration::from_millis(milliseconds.parse().expect("a number of milliseconds"));
    let listener = TcpListener::bind(listen)?;
    for client in listener.incoming() {
        let (client, server) = (client?, server.clone());
        thread::spawn(move || {
            if let Err(error) = connect(client, &server, delay) {
                eprintln!("delay: {error}");
            }
        });
    }
    Ok(())
}

fn connect(client: TcpStream, server: &str, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let (sender, receiver) = mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    let mut requests = client;
    let forth = thread::spawn(move || {
        let mut to_server = server;
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to_server.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 256 << 10];
    while let Ok(n @ 1..) = requests.read(&mut buffer) {
        if sender.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = forth.join();
    let _ = back.join();
    Ok(())
}
