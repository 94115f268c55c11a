#![no_main]
ghost_frames_fuzz::kind!(StoreAnswer);
