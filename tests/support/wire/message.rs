//! MongoDB's wire messages, as much as a server needs: OP_MSG both ways, and the OP_QUERY that opens a connection.

use bson::{Document, RawDocumentBuf, raw::RawDocument};
use tokio::io::{self, AsyncRead, AsyncReadExt};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;
const HEADER: usize = 16;
const FLAG_CHECKSUM: u32 = 1;
const FLAG_MORE_TO_COME: u32 = 2;

/// A request as it came.
pub struct Message {
    pub id: i32,
    opcode: i32,
    /// The client expects no answer (write concern 0).
    pub unanswered: bool,
    bytes: Vec<u8>,
    /// Where the command's document is.
    body: (usize, usize),
    /// Where the document sequence (kind 1) is, if there is one: its documents, one after another.
    sequence: Option<(usize, usize)>,
}

impl Message {
    /// Reads the next message; `None` where the client closed between two.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        match from.read_exact(&mut header).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let (length, id, opcode) = (int(&header, 0)?, int(&header, 4)?, int(&header, 12)?);
        let length = usize::try_from(length).map_err(bad)?;
        let mut bytes = vec![0; length.checked_sub(HEADER).ok_or_else(|| bad("shorter than its header"))?];
        from.read_exact(&mut bytes).await?;
        let mut message = Self { id, opcode, unanswered: false, bytes, body: (0, 0), sequence: None };
        match opcode {
            OP_MSG => message.find_sections()?,
            OP_QUERY => message.find_query()?,
            other => return Err(bad(format!("opcode {other}"))),
        }
        Ok(Some(message))
    }

    /// The command's document.
    pub fn body(&self) -> &RawDocument {
        RawDocument::from_bytes(&self.bytes[self.body.0..self.body.1]).expect("its length was checked")
    }

    /// The documents of the command's sequence, without parsing more than their lengths.
    pub fn documents(&self) -> Documents<'_> {
        Documents { rest: self.sequence.map_or(&[], |(from, to)| &self.bytes[from..to]) }
    }

    /// How many documents an insert brings, in its sequence or in its body.
    pub fn count(&self) -> usize {
        match self.sequence {
            Some(_) => self.documents().count(),
            None => self.body().get_array("documents").map_or(0, |documents| documents.into_iter().count()),
        }
    }

    /// The answer to this request, ready to send.
    pub fn reply(&self, answer: &Document) -> Vec<u8> {
        let answer = RawDocumentBuf::try_from(answer).expect("an answer that BSON can hold");
        let mut out = vec![0; 4]; // the length, at the end
        out.extend(0_i32.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        if self.opcode == OP_QUERY {
            out.extend(OP_REPLY.to_le_bytes());
            out.extend([0; 16]); // flags, cursor id, first document
            out.extend(1_i32.to_le_bytes());
        } else {
            out.extend(OP_MSG.to_le_bytes());
            out.extend([0; 5]); // flags, and the kind of the only section
        }
        out.extend(answer.as_bytes());
        let length = i32::try_from(out.len()).expect("a small answer");
        out[..4].copy_from_slice(&length.to_le_bytes());
        out
    }

    fn find_sections(&mut self) -> io::Result<()> {
        let flags = int(&self.bytes, 0)?.cast_unsigned();
        self.unanswered = flags & FLAG_MORE_TO_COME != 0;
        let end = self.bytes.len() - if flags & FLAG_CHECKSUM != 0 { 4 } else { 0 };
        let mut at = 4;
        while at < end {
            let kind = self.bytes[at];
            at += 1;
            let section = (at, at + usize::try_from(int(&self.bytes, at)?).map_err(bad)?);
            if section.1 > end || section.1 < at + 5 {
                return Err(bad("a section that does not fit its message"));
            }
            if kind == 0 {
                self.body = section;
            } else {
                let name = self.bytes[at + 4..section.1].iter().position(|&byte| byte == 0);
                self.sequence = Some((at + 4 + name.ok_or_else(|| bad("a sequence without a name"))? + 1, section.1));
            }
            at = section.1;
        }
        Ok(())
    }

    fn find_query(&mut self) -> io::Result<()> {
        // flags, collection name, skip, limit, query
        let name =
            self.bytes.iter().skip(4).position(|&byte| byte == 0).ok_or_else(|| bad("a query without a name"))?;
        let at = 4 + name + 1 + 8;
        self.body = (at, at + usize::try_from(int(&self.bytes, at)?).map_err(bad)?);
        if self.body.1 > self.bytes.len() { Err(bad("a query that does not fit its message")) } else { Ok(()) }
    }
}

/// Documents that are one after another.
pub struct Documents<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Documents<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(int(self.rest, 0).ok()?).ok()?;
        let (document, rest) = self.rest.split_at_checked(length.max(5))?;
        self.rest = rest;
        Some(document)
    }
}

fn int(bytes: &[u8], at: usize) -> io::Result<i32> {
    let four = bytes.get(at..at + 4).ok_or_else(|| bad("cut off"))?;
    Ok(i32::from_le_bytes(four.try_into().expect("four bytes")))
}

fn bad(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no message of MongoDB's: {}", why.to_string()))
}
