//! The calls over real connections: HTTP/2 without TLS, messages framed by hand, so that what clients send and get is
//! checked and not our own client.
