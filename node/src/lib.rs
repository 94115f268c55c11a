//! The ghostd daemon: chain, consensus, services, stores, configuration and command line.
