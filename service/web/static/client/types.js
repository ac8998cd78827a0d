/** What the parts of the client have in common, and what its users see. Frames are those of the protocol. */
export {};
