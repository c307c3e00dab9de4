"""Every limit of the formats and interfaces, with its unit and the reason for its value.

Nothing here is configuration: both ends of a boundary must agree on these numbers.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# -- statements and wire JSON ---------------------------------------------------------------------
STATEMENT_BYTES: Final = 48 * KIB
"""A DSSE envelope, in bytes: sealed with its salt it must still fit a 64 KiB tile entry (tlog-tiles)."""
JSON_DEPTH: Final = 24
"""Nesting of wire JSON, in levels: our deepest model has 9."""
REQUEST_BYTES: Final = 1 * MIB
"""An API request body other than a blob, in bytes."""
RESPONSE_BYTES: Final = 16 * MIB
"""What a client reads of one API answer other than a blob, in bytes."""
PAGE_BYTES: Final = 1 * MIB
"""One page of a list, in bytes of JSON; a single larger item is a page of its own."""
PAGE_ITEMS: Final = 200
"""Items in one page of a list."""
RUNS_SHOWN: Final = 500
"""The newest runs of a task that its view shows; all of them are in the log."""
BODY_SECONDS: Final = 30
"""How long a request's body other than a blob may take to arrive, in seconds."""
STALL_SECONDS: Final = 30
"""How long a peer may leave an answer unread, or a blob that it sends without its next bytes, in seconds."""
DOWNLOADS: Final = 32
"""Blobs that the gateway streams to all peers at once."""
DOWNLOADS_EACH: Final = 4
"""Of these, to one peer."""
STRANGERS: Final = 64
"""Requests of peers that are neither registered nor appraised, which the gateway works on at once."""
STRANGER_DENIAL_SECONDS: Final = 60
"""Refusals of peers that are not registered enter the log once in this time, in seconds, with the number of the others:
a stranger must not fill it."""
POLICY_QUESTIONS: Final = 128
"""TEE classes times workers times datasets of one task: for so many machines each policy is asked."""
NAME_CHARS: Final = 64
"""Names of parties, datasets, functions, inputs, outputs and columns in statements, in characters."""
COLUMNS: Final = 512
"""Columns that a dataset statement describes."""
COLUMN_CHARS: Final = 256
"""A column's name, in characters."""
POLICY_BYTES: Final = 16 * KIB
"""One Cedar policy text, in bytes."""
SHARE_CHARS: Final = 1_024
"""A sealed share or a sealed key in base64: an age file to one X25519 recipient has some 350 bytes."""
SHARE_HOLDERS: Final = 32
"""Parties among whom a service's recovery key is shared; all their sealed shares stand in one statement."""
RECOVERY_SECONDS: Final = 14 * 86_400
"""Longest life of a request to share holders: people carry files, and an old request is not what they agree to."""
PARTIES_PER_TASK: Final = 32
"""Parties that take part in one task."""
INPUTS: Final = 32
"""Inputs, and outputs, of a function."""
ARGUMENTS_BYTES: Final = 16 * KIB
"""A task's arguments as JSON, in bytes."""
RUNS: Final = 1_000_000
"""Runs that one task may allow."""
CALLERS: Final = 256
"""Parties that a function may name as its callers."""
PIPELINE_DEPTH: Final = 16
"""Tasks of which each reads an output of the one before."""
TRIGGER_SECONDS: Final = 10
"""Least time between two runs by one trigger."""
INLINE_BYTES: Final = 1 * MIB
"""Sealed outputs of a run up to this size in all come with the answer to an invoke, in bytes."""
TRIGGERS_EACH: Final = 64
"""Triggers of one party that are in force at once."""
CODE_BYTES: Final = 1 * MIB
"""A function's code, in bytes."""
CONTRACT_BYTES: Final = 64 * KIB
"""The contract in a WebAssembly module, in bytes."""
FUEL: Final = 10**15
"""Steps that the contract of a WebAssembly module may allow a run: days of a processor's time."""
COMPILED_BYTES: Final = 64 * MIB
"""A compiled WebAssembly module, in bytes."""
COMPILED_CACHE_BYTES: Final = 256 * MIB
"""Compiled modules that a worker keeps, in bytes."""

# -- mock data and examples -----------------------------------------------------------------------
MARGINALS_BYTES: Final = 12 * KIB
"""The marginals in a dataset statement, in bytes of canonical JSON: they fit a statement beside columns and policy."""
MARGINAL_BINS: Final = 64
"""Bins of one histogram, and values that one column's owner names."""
MARGINAL_VALUE_CHARS: Final = 64
"""A named value of a column, in characters."""
MARGINAL_BOUND: Final = 2**53
"""Bounds of a histogram over numbers lie between minus and plus this: up to it each integer is a float, too."""
EPSILON_UNIT: Final = 1_000_000
"""Parts of epsilon: statements carry whole millionths, so that what was spent is exact."""
MOCK_EPSILON: Final = 10 * EPSILON_UNIT
"""All that one statement's marginals may spend, in millionths: above 10 the promise says next to nothing."""
BUDGET_EPSILON: Final = 1_000 * EPSILON_UNIT
"""The most that a budget, or one task, may name, in millionths: so that sums stay small numbers, not because it says
anything."""
DELTA_UNIT: Final = 10**12
"""Parts of delta, as of epsilon."""
BUDGET_DELTA: Final = DELTA_UNIT // 100
"""The most that a budget may name: with a hundredth, of a hundred people one may be shown whole."""
PROTECTION_NUMBER: Final = 1_000_000_000
"""The most that an output protection may name: of rows, or to round to."""
PROTECTION_COLUMNS: Final = 256
"""Columns that an output protection may allow."""
MOCK_ROWS: Final = 1_000_000
"""Rows of one file of mock data."""
EXAMPLES: Final = 8
"""Examples in a function statement."""
EXAMPLE_INPUT_BYTES: Final = 4 * KIB
"""An input of an example that stands in the statement itself, in bytes."""
EXAMPLES_BYTES: Final = 12 * KIB
"""All examples of a function, in bytes of canonical JSON: they fit a statement beside its callers and arguments."""

# -- models ---------------------------------------------------------------------------------------
MODEL_CARD_BYTES: Final = 12 * KIB
"""A model card, in bytes of canonical JSON: it fits a statement beside columns and policy."""
MODEL_TENSORS: Final = 64
"""Inputs, and outputs, that a model card names."""
MODEL_RANK: Final = 16
"""Dimensions of a tensor in a model card."""
MODEL_EXTENT: Final = 2**40
"""Length of one dimension in a model card: beyond it no machine of today holds the tensor."""
MODEL_METRICS: Final = 32
"""Metrics in a model card."""
MODEL_WARM_SECONDS: Final = 3_600
"""The longest time for which an owner may let a worker keep a loaded model after a run, in seconds."""

# -- sealed data ----------------------------------------------------------------------------------
BLOB_BYTES: Final = 64 * GIB
"""A sealed file, in bytes."""
AGE_HEADER_BYTES: Final = 64 * KIB
"""An age header, in bytes; the age specification sets no limit, a parser of hostile bytes needs one."""
AGE_HEADER_LINES: Final = 1_024
"""Lines of an age header: the parser starts anew for each, so short lines are what costs time."""
AGE_RECIPIENTS: Final = 256
"""Recipients of one sealed file: their header stays within the two limits above."""
KEY_FILE_BYTES: Final = 4 * KIB
"""A key file, in bytes: the longest of ours has 1,700."""
BLOB_CHUNK_BYTES: Final = 1 * MIB
"""Blobs cross sockets in pieces of at most this many bytes."""

# -- log ------------------------------------------------------------------------------------------
LOG_ENTRY_BYTES: Final = 64
"""A log entry: SHA-256(salt || statement) and SHA-256(sealed body), in bytes."""
LOG_BODY_BYTES: Final = 64 * KIB
"""A sealed log body, in bytes."""
CHECKPOINT_BYTES: Final = 4 * KIB
"""A signed checkpoint with its cosignatures, in bytes."""
LOG_BATCH: Final = 512
"""Entries of one group commit."""
LOG_COMPARED_AT_START: Final = 50_000
"""Stored entries under a snapshot that a gateway compares with it before it serves; if more, while it serves."""
PROOF_HASHES: Final = 64
"""Hashes in an inclusion or consistency proof: the log has fewer than 2^63 entries."""

# -- time -----------------------------------------------------------------------------------------
CLOCK_SKEW_SECONDS: Final = 300
"""How far a statement or a checkpoint may lie from one's own clock."""
APPROVAL_SECONDS: Final = 366 * 86_400
"""Longest life of an approval or a task."""
STATEMENT_AGE_SECONDS: Final = 3_600
"""A statement is posted within this time after it was signed."""

# -- host doors -----------------------------------------------------------------------------------
FRAME_BYTES: Final = 2 * MIB
"""One frame between the TCB and the host process, in bytes."""
FRAME_FIELDS: Final = 2 * LOG_BATCH
"""Fields of one frame: the largest group commit has an entry and a body per record."""
HOST_MESSAGE_BYTES: Final = 256
"""The message of a refusal by the host, in bytes: enough for a sentence."""
HOST_CONNECTIONS: Final = 128
"""Connections that the host process serves at once, a thread each."""
HOST_STALL_SECONDS: Final = 300
"""How long the host process waits for the rest of a request, or for the reader of a blob."""
TICKET_BYTES: Final = 4 * KIB
"""A queue ticket, in bytes."""
LEASE_ID_CHARS: Final = 64
"""The host's name for a lease, in ASCII characters."""
LEASE_SECONDS: Final = 3_600
"""Longest lease of a ticket, and longest wait for one."""

# -- channel --------------------------------------------------------------------------------------
HANDSHAKE_SECONDS: Final = 10
"""From the accepted connection to proven freshness."""
CERTIFICATE_BYTES: Final = 64 * KIB
"""A peer's certificate with its evidence, in bytes."""
CONNECTIONS: Final = 1_024
"""Connections that a listener keeps open at once."""
EVIDENCE_BYTES: Final = 48 * KIB
"""The evidence extension of a certificate, in bytes."""
RECOVERY_MESSAGE_BYTES: Final = 72 * KIB
"""A request to share holders, or a share, in bytes: evidence in base64 has 64 KiB at most, the rest of it 4."""

# -- sandbox --------------------------------------------------------------------------------------
CHILD_REPORT_BYTES: Final = 64 * KIB
"""What a sandboxed child may tell its supervisor beside its outputs, in bytes."""
JOB_BYTES: Final = 64 * KIB
"""A job as the supervisor hands it to the zygote, in bytes: arguments and 64 names with their formats."""
ATTESTATION_BYTES: Final = 128 * KIB
"""What a function is told of where it runs, in bytes: evidence and claims in base64, and some digests. The private
root has room for this file."""
DIAGNOSTICS_BYTES: Final = 64 * KIB
"""Kept of stdout, stderr and a traceback, in bytes."""
RUN_SECONDS: Final = 24 * 3_600
"""Longest run that a task may ask for."""
SCRATCH_BYTES: Final = 16 * GIB
"""A run's scratch file, in bytes: half a billion keys of numbers on each of two sides."""
ATTEMPTS: Final = 3
"""Attempts of one run before it counts as failed."""

# -- built-in functions on tables -----------------------------------------------------------------
JOIN_ROWS: Final = 20_000_000
"""Rows that a join may give: keys that stand often on several sides multiply, and this is refused before memory is
asked for. At some 50 bytes a row, a run's usual memory is gone before."""
MEASURES: Final = 512
"""Columns of figures in one aggregate, as many as a dataset statement describes."""
CONDITIONS: Final = 64
"""Conditions in the filter of one aggregate."""
CONDITION_VALUES: Final = 1_024
"""Values in a list that a condition compares with."""
SQL_CHARS: Final = 16 * KIB
"""A query of the function `sql`, in characters: it stands in a task's arguments, which are part of a statement."""
SQL_WORDS: Final = 2_048
"""Words, numbers and signs of a query: planning takes time that grows with their square."""
SQL_DEPTH: Final = 32
"""Brackets open at once in a query: the engine's parser recurses, and refuses 50 by itself."""

# -- models of the built-in learners ------------------------------------------------------------------
LEARNED_BYTES: Final = 32 * MIB
"""A model document, in bytes: a support vector machine that keeps 10,000 rows of 100 columns has 20 MiB."""
LEARNED_COLUMNS: Final = 2_048
"""Columns that a model looks at, as many as are analysed for principal components."""
LEARNED_LEVELS: Final = 1_000
"""Levels of one column, as many as are taken for categories."""
LEARNED_LEVEL_CHARS: Final = 1_024
"""A level or a class as text, in characters."""
LEARNED_FEATURES: Final = 4_096
"""Numbers that are made of one row, over all columns and levels."""
LEARNED_NUMBERS: Final = 1_000_000
"""Numbers in one list, and lists in one matrix: the size of the document is the real bound."""
LEARNED_GROUPS: Final = 1_000
"""Clusters, components of a mixture, and classes but those of support vector machines."""
LEARNED_SVM_CLASSES: Final = 100
"""Classes of a support vector machine, which makes a decision for each pair."""

# -- environments ---------------------------------------------------------------------------------

LOCK_BYTES: Final = MIB
"""A lock file, in bytes: some 300 packages with the hashes of all their wheels."""
LOCK_PACKAGES: Final = 1_024
"""Packages in one lock."""
ENVIRONMENT_FILES: Final = 100_000
"""Files of one environment: each is hashed before each run."""
ENVIRONMENT_BYTES: Final = 8 * GIB
"""All files of one environment, in bytes, unpacked."""
ENVIRONMENT_PATH_BYTES: Final = 512
"""The path of one file within an environment, in bytes of UTF-8."""
ENVIRONMENT_MANIFEST_BYTES: Final = MIB
"""What stands beside the files of an environment, in bytes of JSON."""

# -- attestation ----------------------------------------------------------------------------------
CBOR_DEPTH: Final = 8
"""Nesting of the CBOR that we define ourselves, in levels: our deepest structure has 4."""
CBOR_ITEMS: Final = 1_024
"""Data items in one such structure, counted over all levels."""
CLAIMS_BYTES: Final = 8 * KIB
"""The claims beside evidence, in bytes."""
APPRAISAL_BYTES: Final = 12 * KIB
"""One appraisal in a receipt, in bytes of canonical JSON: two of them fit a statement beside everything else."""
BUNDLE_ENDORSEMENTS_BYTES: Final = 4 * MIB
"""The endorsements in a receipt bundle, in bytes: those of the service's own workers."""
ENVIRONMENTS: Final = 16
"""Execution environments that one worker offers."""
EXTRA_CLAIMS: Final = 16
"""Claims of other profiles that are kept, not interpreted."""
EVIDENCE_LIFE_SECONDS: Final = 31 * 86_400
"""Longest validity of software evidence, in seconds: as long as vendors' collateral lives."""
BUNDLE_FILES: Final = 16
"""Pieces in one bundle of evidence: an Azure machine has eight."""
REFERENCE_BUNDLES: Final = 64
"""Bundles of reference values that are looked at for one appraisal."""
REFERENCE_LIFE_SECONDS: Final = 2 * 366 * 86_400
"""Longest validity of auditors' reference values, in seconds."""
ENDORSEMENT_BYTES: Final = MIB
"""One endorsement, in bytes: Intel's for one platform have 25,000, revocation lists grow."""
ENDORSEMENTS: Final = 1_024
"""Endorsements in one collection."""
ENDORSEMENTS_BYTES: Final = 16 * MIB
"""A collection of endorsements as a file, in bytes."""
EAR_BYTES: Final = 256 * KIB
"""A signed attestation result, in bytes: claims and reasons of an appraisal."""
APPRAISAL_AGE_SECONDS: Final = 24 * 3_600
"""Longest age of an appraisal that a trust policy may set, in seconds."""
APPRAISALS_CACHED: Final = 1_024
"""Appraisals that a verifier remembers: one for each connection of a full listener."""
TRUST_POLICY_BYTES: Final = 64 * KIB
"""A trust policy as TOML, in bytes."""
TRUST_ENTRIES: Final = 256
"""Entries in one list of a trust policy."""
PIN_CHARS: Final = 1_024
"""A text that a trust policy pins a claim to, in characters: the longest claims have some hundreds."""
CHAIN_CERTIFICATES: Final = 16
"""Certificates in one PEM text, and candidates for one chain: vendors' chains have up to five."""
CHAIN_STEPS: Final = 64
"""Certificates that the search for one chain visits, over all paths: more means that they sign in circles."""
CERTIFICATE_EXTENSIONS: Final = 64
"""Extensions of one certificate or revocation list: AMD's have 11."""
PEM_BYTES: Final = 1 * MIB
"""A PEM text, in bytes."""
CRL_BYTES: Final = 4 * MIB
"""A certificate revocation list, in bytes."""
CRLS: Final = 16
"""Revocation lists that come with one chain."""
CERTIFICATES_CACHED: Final = 256
"""Certificates, and extensions of platforms, that stay parsed: those of vendors and of a few hundred machines."""
CRLS_CACHED: Final = 16
"""Revocation lists that stay parsed: as many as can come with one chain."""
SIGNATURES_CACHED: Final = 4_096
"""Signatures of certificates, revocation lists and collateral that are remembered to hold."""
SPKI_BYTES: Final = 2 * KIB
"""A SubjectPublicKeyInfo, in bytes: RSA with 8192 bits needs 1,062."""
SIGNATURE_BYTES: Final = 1 * KIB
"""A signature of evidence, in bytes: that of RSA with 8192 bits."""
SIGNED_BYTES: Final = CRL_BYTES
"""A signed message of evidence, in bytes: a revocation list is the longest."""
CASE_META_BYTES: Final = 256 * KIB
"""The `meta.json` of a case of captured evidence, in bytes."""
CASE_FILE_BYTES: Final = 8 * MIB
"""One file of a case, in bytes: event logs and revocation lists are the longest."""
CASE_FILES: Final = 64
"""Files of one case."""
CASES: Final = 100_000
"""Cases in one folder."""
WRAPPINGS: Final = 4
"""Wrappings around evidence that are undone, one in the other: e.g. base64 of JSON of hex, with one to spare."""
DETECT_LEAVES: Final = 1_024
"""Strings of a JSON text that are looked at for evidence."""
DETECT_CHARS: Final = 100
"""Shorter strings of a JSON text hold no evidence, in characters: the shortest quote of a TPM has 101 bytes."""
DETECT_BYTES: Final = 4 * KIB
"""How far into a token its kind is looked for, in bytes."""
DETECT_EVENTS: Final = 256
"""Events of a log without a magic number that must follow each other before it counts as one."""
FOREIGN_CBOR_DEPTH: Final = 16
"""Nesting of the CBOR that other makers' attesters sign, in levels: the deepest that we know has 6."""
FOREIGN_CBOR_ITEMS: Final = 4_096
"""Data items in one such structure: a CCA platform of 16 components has 200."""
COSE_BYTES: Final = 64 * KIB
"""A COSE message or a CCA token, in bytes: those that we know have 5 KiB at most."""
CLAIM_CHARS: Final = 512
"""A text in other makers' evidence, in characters."""
ARM_COMPONENTS: Final = 64
"""Software components in an Arm token: the longest that we know has 16."""
NITRO_PAYLOAD_BYTES: Final = 16 * KIB
"""The payload of a Nitro attestation document, in bytes (NSM specification)."""
NITRO_FIELD_BYTES: Final = 1_024
"""Certificate, public key, user data and nonce of such a document, in bytes each (its CDDL)."""
NITRO_CHAIN: Final = 8
"""Certificates above the document's own: the deepest that we know has 4."""
KEYSTONE_BUFFER_BYTES: Final = 2_048
"""The buffer in which an enclave hands over its Keystone report, in bytes."""
TRUST_ANCHOR_BYTES: Final = 64 * KIB
"""A file of trust anchors for Arm tokens, in bytes."""
TRUST_ANCHORS: Final = 256
"""Anchors in such a file."""
GPU_EVIDENCE_BYTES: Final = 1 * MIB
"""The evidence of all GPUs of a machine as JSON, in bytes: one takes 12 KiB."""
GPUS: Final = 16
"""GPUs in one such file: machines have 8."""
SPDM_BYTES: Final = 64 * KIB
"""An SPDM request with its response, in bytes: the measurement record alone may have 16 MiB by its length
field, a GPU's has 3,520 bytes."""
DICE_FWIDS: Final = 16
"""Firmware ids of one DICE layer, and layers that one certificate describes: devices have one or two."""
OPTEE_NONCE_BYTES: Final = 1_024
"""The nonce that OP-TEE's attestation signs, in bytes: a challenge has 32 to 64."""
EVENT_LOG_BYTES: Final = 8 * MIB
"""A firmware event log with its padding, in bytes: the table of a confidential VM has 256 KiB."""
EVENTS: Final = 16_384
"""Events of one firmware log: captured ones have up to 200, and each must be hashed."""
EVENT_BYTES: Final = 1 * MIB
"""The data of one event, in bytes: lists of revoked signatures, which firmware measures whole, have 20 KiB."""
EVENT_BANKS: Final = 8
"""Hash algorithms of one log: TPMs have up to 4 banks."""
TPM_BYTES: Final = 4 * KIB
"""One structure of a TPM (a quote, a public area, a signature), in bytes: the TPM's own buffers are as long."""
TPM_QUOTES: Final = 16
"""Quotes, signatures and keys in one piece of evidence: a quote for each bank, with some to spare."""
TPM_TEXT_BYTES: Final = 1 * MIB
"""A text (JSON, hex, base64) around evidence of a TPM, in bytes; longer files are taken for binary logs."""
TPM_JSON_VALUES: Final = 16_384
"""Values of a JSON text that are searched for TPM evidence; an array of bytes counts once."""
PROTOBUF_FIELDS: Final = 4_096
"""Fields of one protocol buffer message, over all its levels that are read."""
HCL_BYTES: Final = 64 * KIB
"""Azure's HCL report, in bytes: its NV index holds 2,600."""
COLLATERAL_BYTES: Final = 512 * KIB
"""One file of Intel's collateral, in bytes: that for one platform has 25,000, and its revocation lists grow."""
COLLATERAL_DEPTH: Final = 6
"""Levels of JSON that are searched for Intel's collateral, for each is parsed anew: bundles have up to three."""
COLLATERAL_CERTIFICATES: Final = 32
"""Different certificates in one pool of Intel's collateral: a full one has six."""
COLLATERAL_STATEMENTS: Final = 16
"""Signed statements of one kind in one pool of Intel's collateral."""
COLLATERAL_CACHED: Final = 32
"""Files of Intel's collateral that stay taken apart: four bundles of loose files."""
STATEMENTS_CACHED: Final = 16
"""TCB infos, and QE identities, that stay parsed: one of each serves all machines of a kind."""
TCB_LEVELS: Final = 256
"""TCB levels, TDX modules or advisories in one list of Intel's collateral: the longest has 17."""
RUNTIME_EVENTS: Final = 4_096
"""Events of a log in JSON that is replayed against a TD's registers: a start has about 30."""

# -- Cedar policies -------------------------------------------------------------------------------
POLICY_DEPTH: Final = 24
"""Brackets open at once in a policy text: Cedar's parser recurses, and 100 overflow a stack of 1 MiB."""
POLICY_OPERATORS: Final = 128
"""Operators, paths, brackets and clauses in one permit or forbid, for each may nest in the last one: with 500
of them Cedar's validator runs out of a stack of 1 MiB and then passes what it did not look at."""

# -- models in ONNX format ------------------------------------------------------------------------
ONNX_BYTES: Final = 2 * GIB - 1
"""A model, in bytes: a protocol buffer is no longer."""
ONNX_FIELDS: Final = 1_000_000
"""Fields of a model's protocol buffers, over all levels; tensor data is one. A net of 5,000 nodes has 60,000, and
reading that many takes a tenth of a second."""
ONNX_NAME_BYTES: Final = 1_024
"""A name in a model, in bytes of UTF-8: names of modules in modules are long."""
ONNX_STRING_BYTES: Final = 64 * KIB
"""A string attribute, in bytes: an expression, a pattern or an entry of a vocabulary."""
ONNX_NODES: Final = 100_000
"""Nodes of a model with all of its subgraphs, each call of a function in it counted with the function's nodes."""
ONNX_DEPTH: Final = 8
"""Graphs within graphs (If, Loop, Scan), in levels: the deepest that exporters make has 3."""
ONNX_TYPE_DEPTH: Final = 4
"""Types within types (a sequence of maps of tensors), in levels."""
ONNX_RANK: Final = 16
"""Dimensions of a tensor: operators know up to 8."""
ONNX_ELEMENTS: Final = 2**31 - 1
"""Elements of one tensor, as its fixed dimensions say."""
ONNX_SPARSE_ELEMENTS: Final = 2**24
"""Elements of a sparse tensor once it is dense: a few bytes may stand for all of them."""
ONNX_SPARSE_VALUES: Final = 2**20
"""Values in a sparse tensor: each one's place is looked at."""
ONNX_PORTS: Final = 1_024
"""Inputs and outputs of a model, or of one node."""

# -- tensors in files -----------------------------------------------------------------------------
TENSORS: Final = 1_024
"""Tensors in one file."""
TENSORS_HEADER_BYTES: Final = 1 * MIB
"""The JSON before the data of a safetensors file, in bytes: each tensor takes about a hundred."""

# -- models that wait for their next run ----------------------------------------------------------
WARM_INPUT_BYTES: Final = 64 * MIB
"""Inputs beside the model that a child takes which has loaded it ahead, in bytes: its limits are set before it knows
them, so that these come on top of what a run may use. Runs with more start anew."""
WARM_CPU_SECONDS: Final = 60
"""Processor time for loading a model ahead, in seconds, beside that of the run."""
