//! Questions to one peer and their answers, as libp2p reads and writes them.

use std::{io, marker::PhantomData};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};
use theta_core::codec::rlp::DecodeError;

/// What goes through a stream of its own.
pub(crate) trait Wire: Sized + Send {
    /// Most bytes of one.
    const LIMIT: u64;

    /// Its bytes.
    fn write(&self) -> Vec<u8>;

    /// Reads one that came from anybody.
    fn read(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Reads and writes questions `Q` and answers `A`.
#[derive(Debug)]
pub(crate) struct Codec<Q, A>(PhantomData<fn() -> (Q, A)>);

impl<Q, A> Clone for Codec<Q, A> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<Q, A> Default for Codec<Q, A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

async fn read<T: Wire>(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<T> {
    let mut bytes = Vec::new();
    io.take(T::LIMIT + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > T::LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {} bytes", T::LIMIT)));
    }
    T::read(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl<Q: Wire, A: Wire> request_response::Codec for Codec<Q, A> {
    type Protocol = StreamProtocol;
    type Request = Q;
    type Response = A;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Q>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<A>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, question: Q) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&question.write()).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: A) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&answer.write()).await
    }
}
