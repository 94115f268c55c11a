//! Identity, handshake, sessions, stream classes, requests and the client of the ghostd overlay.
