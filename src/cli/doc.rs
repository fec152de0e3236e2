//! `doc`: the records of a file as the documents that a sink would store, for trying out and for comparing.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::IgnoredAny;

use super::{Exit, Failure, Outcome, output};
use crate::{
    document::{DocumentContext, DocumentOptions, Encoder, Enums, JsonStyle, PiiKey, Redact, write_json},
    printable::printable,
    record::{Stream, json::records_from_json},
};

/// A longer record means that the file has another format.
const MAX_RECORD: u64 = 256 * 1024 * 1024;

/// Arguments of `doc`.
#[derive(Debug, Clone, clap::Args)]
pub struct DocArgs {
    /// The records; `-` reads stdin
    ///
    /// Protobuf records, each after its length as a varint, or JSON: records, arrays of them, LiveKit's batches ({"events":
    /// […]}), one or many in a file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Stream of the records
    #[arg(long, value_parser = PossibleValuesParser::new(["events", "stats", "node_rooms"]).try_map(|name| name.parse::<Stream>()))]
    pub kind: Stream,
    /// What is redacted in the documents
    #[arg(long, value_enum, default_value = "secrets")]
    pub redact: Redact,
    /// How enums are written
    #[arg(long, value_enum, default_value = "compatible")]
    pub enums: Enums,
    /// Key of the hashes that replace identifiers with `--redact pii`; without it they are left out
    #[arg(long, value_name = "KEY", env = "LIVEKIT_SPOOL_PII_KEY", hide_env_values = true)]
    pub pii_key: Option<String>,
    /// Leave out the added field `time`
    #[arg(long)]
    pub no_time: bool,
    /// Format of the file
    #[arg(long, value_enum, default_value = "auto")]
    pub format: InputFormat,
}

/// The format of an input file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum InputFormat {
    /// JSON if it begins like JSON and is text, else protobuf.
    Auto,
    /// Protobuf records, each after its length as a varint.
    Protobuf,
    /// JSON values, one after another.
    Json,
}

/// Prints each record's document as canonical Extended JSON, one per line, in order. A record of which no document can be
/// made is reported on stderr, and the others are still printed.
///
/// # Errors
/// When the file cannot be read, is malformed, or no document can be made of some records.
pub fn run(args: &DocArgs) -> Outcome {
    let stdout = io::stdout().lock();
    let mut out = io::BufWriter::with_capacity(1 << 20, stdout);
    let result = open(&args.file).and_then(|input| convert(args, input, &mut out));
    match (result, out.flush()) {
        (Err(failure), _) => Err(failure),
        (Ok(()), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn open(file: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if file == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    match std::fs::File::open(file) {
        Ok(file) => Ok(Box::new(BufReader::with_capacity(1 << 20, file))),
        Err(error) => Err(Failure::new(Exit::Failed, format!("{}: {error}", file.display()))),
    }
}

fn convert(args: &DocArgs, mut input: Box<dyn BufRead>, out: &mut impl Write) -> Outcome {
    let mut printer = Printer::new(args, out);
    let named = |error: String| Failure::new(Exit::Failed, format!("{}: {error}", args.file.display()));
    let json = match args.format {
        InputFormat::Auto => looks_like_json(input.fill_buf()?),
        InputFormat::Protobuf => false,
        InputFormat::Json => true,
    };
    if json { json_values(input, &mut printer, &named) } else { delimited(input, &mut printer, &named) }?;
    printer.end()
}

/// JSON records are objects or arrays of them, and text: no control characters except white space. Protobuf records have
/// control characters in their first tags and lengths.
fn looks_like_json(start: &[u8]) -> bool {
    let text = start.trim_ascii_start();
    let control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t');
    matches!(text.first(), Some(b'{' | b'[')) && !text.iter().take(4096).any(control)
}

fn json_values(mut input: impl Read, printer: &mut Printer<impl Write>, named: &impl Fn(String) -> Failure) -> Outcome {
    let mut text = Vec::new();
    input.read_to_end(&mut text)?;
    let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<IgnoredAny>();
    while !printer.reader_gone {
        let start = values.byte_offset();
        let value = match values.next() {
            None => return Ok(()),
            Some(Ok(_)) => &text[start..values.byte_offset()],
            // Parsed again as records, for the position of the error.
            Some(Err(_)) => &text[start..],
        };
        let batch = records_from_json(printer.stream, value).map_err(|mut error| {
            if error.line > 0 {
                error.line += text[..start].iter().filter(|&&byte| byte == b'\n').count();
            }
            named(error.to_string())
        })?;
        for record in &batch.build(0) {
            printer.record(record)?;
        }
    }
    Ok(())
}

fn delimited(
    mut input: impl BufRead,
    printer: &mut Printer<impl Write>,
    named: &impl Fn(String) -> Failure,
) -> Outcome {
    let mut record = Vec::new();
    let mut offset = 0_u64;
    while !printer.reader_gone {
        let broken = |what: &str| {
            named(format!("not length-delimited protobuf: at byte {offset} (record {}) {what}", printer.records + 1))
        };
        let Some((length, prefix)) = read_length(&mut input)?.map_err(broken)? else { return Ok(()) };
        if length > MAX_RECORD {
            return Err(broken(&format!("a record of {length} bytes begins")));
        }
        record.clear();
        input.by_ref().take(length).read_to_end(&mut record)?;
        if record.len() as u64 != length {
            return Err(broken(&format!("a record of {length} bytes begins, but only {} follow", record.len())));
        }
        offset += prefix + length;
        printer.record(&record)?;
    }
    Ok(())
}

/// A record's length and how many bytes encode it; `None` at the end of the input.
fn read_length(input: &mut impl BufRead) -> io::Result<Result<Option<(u64, u64)>, &'static str>> {
    let mut length = 0_u64;
    for count in 0..10_u32 {
        let Some(&byte) = input.fill_buf()?.first() else {
            return Ok(if count == 0 { Ok(None) } else { Err("a length is cut off") });
        };
        input.consume(1);
        length |= u64::from(byte & 0x7F) << (7 * count);
        if byte < 0x80 {
            return Ok(Ok(Some((length, u64::from(count) + 1))));
        }
    }
    Ok(Err("a length is longer than 64 bits"))
}

/// Encodes and prints documents.
struct Printer<W> {
    stream: Stream,
    encoder: Encoder,
    out: W,
    document: Vec<u8>,
    line: Vec<u8>,
    records: u64,
    failed: u64,
    /// The reader has gone (`| head`).
    reader_gone: bool,
}

impl<W: Write> Printer<W> {
    fn new(args: &DocArgs, out: W) -> Self {
        let options = DocumentOptions {
            redact: args.redact,
            enums: args.enums,
            time: !args.no_time,
            pii_key: args.pii_key.as_deref().map(PiiKey::from_secret),
            ..DocumentOptions::default()
        };
        let encoder = Encoder::new(options);
        Self {
            stream: args.kind,
            encoder,
            out,
            document: Vec::new(),
            line: Vec::new(),
            records: 0,
            failed: 0,
            reader_gone: false,
        }
    }

    fn record(&mut self, record: &[u8]) -> Outcome {
        self.records += 1;
        self.document.clear();
        self.line.clear();
        let context = DocumentContext::default();
        if let Err(error) = self.encoder.encode(self.stream, record, &context, &mut self.document) {
            self.failed += 1;
            output::complain(format!("record {}: {error}", self.records));
            return Ok(());
        }
        write_json(&self.document, JsonStyle::Canonical, &mut self.line)?;
        self.line.push(b'\n');
        match self.out.write_all(printable(&String::from_utf8_lossy(&self.line)).as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.reader_gone = true,
            written => written?,
        }
        Ok(())
    }

    fn end(&self) -> Outcome {
        match self.failed {
            0 => Ok(()),
            failed => {
                Err(Failure::new(Exit::Partial, format!("{failed} of {} records make no document", self.records)))
            }
        }
    }
}
