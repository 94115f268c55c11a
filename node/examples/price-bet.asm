; A bet on a price, for the EVM, written by hand. price-bet.hex is what it assembles to.
;
; Whoever deploys it stakes the value it starts with. Constructor input, four words: the feed (its name in ASCII,
; padded with zeros on the right), the strike in the feed's units, who gets the stake if the price is above the
; strike, and who gets it otherwise. Any call settles it by the newest price of the chain, unless that is older
; than a minute or than the feed allows: then it reverts, and the stake stays.
;
; Push operands are hexadecimal; @name is the place of a label.

; ---- constructor
    PUSH1 80
    PUSH1 80
    CODESIZE
    SUB
    PUSH0
    CODECOPY              ; memory = the last four words of the code: the constructor's input
    PUSH0
    MLOAD
    PUSH0
    SSTORE                ; slot 0 = feed
    PUSH1 20
    MLOAD
    PUSH1 01
    SSTORE                ; slot 1 = strike
    PUSH1 40
    MLOAD
    PUSH1 02
    SSTORE                ; slot 2 = who gets it above
    PUSH1 60
    MLOAD
    PUSH1 03
    SSTORE                ; slot 3 = who gets it otherwise
    PUSH1 75
    DUP1
    PUSH1 27
    PUSH0
    CODECOPY
    PUSH0
    RETURN                ; the code below

; ---- contract (offset 0 is here)
    PUSH4 d6a36e19        ; freshPrice(bytes32,uint64)
    PUSH1 e0
    SHL
    PUSH0
    MSTORE                ; memory[0..4] = selector
    PUSH0
    SLOAD
    PUSH1 04
    MSTORE                ; memory[4..36] = the feed
    PUSH2 ea60            ; 60,000 ms
    PUSH1 24
    MSTORE                ; memory[36..68] = how old the price may be
    PUSH1 c0
    PUSH0
    PUSH1 44
    PUSH0
    PUSH6 6f7261636c65    ; "oracle": where prices are read
    GAS
    STATICCALL            ; memory[0..192] = price, confidence, exponent, time, age, stale
    PUSH1 @read
    JUMPI
    RETURNDATASIZE
    PUSH0
    PUSH0
    RETURNDATACOPY
    RETURNDATASIZE
    PUSH0
    REVERT                ; with the reason of the oracle: UnknownFeed() or StalePrice(age, max)
read:
    PUSH0
    MLOAD                 ; price
    PUSH1 01
    SLOAD                 ; strike
    SLT                   ; strike < price
    PUSH1 03
    SUB                   ; slot 2 if so, else slot 3
    SLOAD                 ; who gets it
    DUP1
    PUSH1 20
    MSTORE                ; memory[32..64] = who gets it
    PUSH0
    PUSH0
    PUSH0
    PUSH0
    SELFBALANCE
    DUP6
    GAS
    CALL                  ; all that is here
    PUSH1 @paid
    JUMPI
    PUSH0
    PUSH0
    REVERT
paid:
    PUSH32 8db3efd9787abb1fc25059ad2e9580d8df99b879f57eef126f8fd69df719ee0f  ; Settled(int64 price, address to)
    PUSH1 40
    PUSH0
    LOG1
    PUSH1 40
    PUSH0
    RETURN                ; price, who got it
