//! Byte tables: complete messages, every cut of them, gaps, malformed input, budgets.

mod gaps;
mod replies;
mod requests;

use super::super::super::message::Request;
use super::super::super::reply::Reply;
use super::{ReplyDecoder, RequestDecoder};
use crate::protocol::{Protocol, testing};

const OPAQUE: u32 = 0xdead_beef;

/// A message: magic, opcode, status, and the parts of its body.
fn message(magic: u8, opcode: u8, status: u16, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32;
    let mut wire = vec![magic, opcode];
    wire.extend((key.len() as u16).to_be_bytes());
    wire.extend([extras.len() as u8, 0]);
    wire.extend(status.to_be_bytes());
    wire.extend(body.to_be_bytes());
    wire.extend(OPAQUE.to_be_bytes());
    wire.extend(7_u64.to_be_bytes());
    [&wire, extras, key, value].concat()
}

fn ask(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    message(0x80, opcode, 0, extras, key, value)
}

fn answer(opcode: u8, status: u16, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    message(0x81, opcode, status, extras, key, value)
}

/// Extras of a store, and of a count.
fn store(seconds: u32) -> Vec<u8> {
    [[0, 0, 0, 5], seconds.to_be_bytes()].concat()
}

fn count(seconds: u32) -> Vec<u8> {
    let numbers = [1_u64.to_be_bytes(), 40_u64.to_be_bytes()].concat();
    [&numbers[..], &seconds.to_be_bytes()].concat()
}

fn request(wire: &[u8]) -> Request {
    testing::request(Protocol::Memcached, wire)
}

fn reply(wire: &[u8]) -> Reply {
    testing::reply(Protocol::Memcached, wire)
}
