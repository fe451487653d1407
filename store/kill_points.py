"""Where a step may be killed: every point between two effects, in one table.

A killed process must leave nothing lost, nothing doubled and nothing half done, wherever it is killed. So each step
names the moments after which a kill would be worst, here and with `reached` in its code, and one test walks the
whole table. With `TUNELOOP_KILL_AT=name` (or `name:3` for the third time) in the environment, `reached` kills the
process tree whose root's id is in `TUNELOOP_KILL_ROOT` with SIGKILL, or only itself; otherwise it does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

# name: what has just happened when the process dies there
POINTS: Mapping[str, str] = {
    # the log, the read tables, artifacts and small files
    "log.written": "the events are in the transaction, which is not committed",
    "log.committed": "the events are in the log, and nobody has been told",
    "projections.folded": "a batch is folded into the read tables, not committed",
    "projections.shadow_filled": "a rebuild has filled the shadow tables up to a batch",
    "projections.swapped": "the shadow tables have taken the place of the read tables, not committed",
    "artifacts.files_copied": "the files lie in the temporary folder, without a manifest",
    "artifacts.manifest_written": "the temporary folder is complete and not renamed",
    "artifacts.redaction_noted": "an artifact says which of its files are erased, and still has them",
    "artifacts.renamed": "the artifact has its address, and no event names it",
    "file.temporary_written": "a small file was written beside its place and not renamed",
    "snapshot.temporary_written": "a copy of the state was written beside its place and not renamed",
    "snapshot.replaced": "a copy of the state has taken its place",
    # the daemon itself
    "lease.locked": "the daemon's lock is held, its epoch is not raised",
    "lease.raised": "the epoch is raised, nothing else is done",
    "services.started": "a service runs and its address is not told",
    "services.told": "the addresses of the services are told",
    # intake
    "intake.file_claimed": "a file was renamed out of the inbox, none of it was read",
    "intake.file_copied": "a file was copied from another file system, and still lies in the inbox",
    "intake.batch_appended": "a batch of lines is in the log, how far the file was read is not noted",
    "intake.progress_noted": "how far the file was read is noted",
    "intake.file_read": "the last line of a file is in the log, the file is still claimed",
    "intake.file_done": "a note says that a file was read, the file is still claimed",
    "intake.file_deleted": "a file that was read is deleted, its note of progress is left",
    "intake.line_kept": "a bad line is kept aside, no event says so",
    "intake.file_refused": "an event says that a file is kept aside, and it is not yet",
    # prompt, harvest, dataset
    "ask.folder_prepared": "what an endpoint is to be asked is written down, nobody asks it",
    "ask.part_kept": "a part of an endpoint's answers is on disk",
    "ask.done": "an endpoint has answered everything, its child has not ended",
    "prompt.chosen": "the prompt versions are compared, none is adopted",
    "fit.folder_prepared": "what the control is to do is written down, nobody does it",
    "harvest.opinions_written": "the control's opinions are on disk, its child has not said that it is done",
    "harvest.chosen": "the records to review are chosen, nobody is asked",
    "freeze.dataset_written": "the dataset and its control lie in a folder beside the runs, there is no result",
    "freeze.dataset_kept": "the dataset is an artifact, the folder that it came from is left",
    "freeze.counted": "the dataset is ready and not recorded",
    # training
    "train.spec_written": "the run folder has a spec and no examples",
    "train.folder_prepared": "the run folder is complete, the start is not recorded",
    "train.start_recorded": "the start is recorded, the child is not started",
    "train.child_started": "the child is started, the daemon has not gone on",
    "train.loaded": "the child has its model and has not made a step",
    "train.step_done": "the child has made an optimiser step",
    "train.best_written": "the best weights so far lie beside their place",
    "train.checkpoint_written": "the files of a checkpoint are there, the mark that it is complete is not",
    "train.checkpoint_completed": "a checkpoint is complete, older ones are not removed",
    "train.trained": "the last step is done, the adapter is not written",
    "train.adapter_written": "the adapter lies beside its place",
    "train.adapter_renamed": "the adapter is in its place, there is no result",
    "train.result_written": "the result is there, the child has not ended",
    "train.adapter_kept": "the adapter is an artifact, its training is not recorded as done",
    "step.interruption_seen": "a child was found dead without a result, and it is not recorded",
    "step.failure_seen": "a child was found to have failed, and it is not recorded",
    "register.texts_forgotten": "the run's texts are gone, the adapter is not registered",
    # evaluation and verdict
    "evaluate.exam_written": "the run folder has an exam and no spec",
    "evaluate.folder_prepared": "the run folder is complete, the look is not recorded",
    "evaluate.start_recorded": "the look is spent, the child is not started",
    "evaluate.child_started": "the child is started, the daemon has not gone on",
    "evaluate.answered": "one answerer has answered the exam, nothing is written",
    "evaluate.predictions_written": "the predictions are there, there is no result",
    "evaluate.result_written": "the result is there, the child has not ended",
    "evaluate.predictions_kept": "the predictions are an artifact, the look is not recorded as done",
    "judge.decided": "the gate has decided, and it is not recorded",
    "judge.texts_forgotten": "the look's texts are gone, the verdict is not recorded",
    "reject.decided": "a candidate is to be rejected, and it is not recorded",
    "park.texts_forgotten": "a run's texts are gone, it is not recorded as given up",
    # production
    "promote.probed": "the engine serves the candidate, it is not promoted",
    "promote.recorded": "the candidate is promoted, production is not pointed at it",
    "rollback.decided": "the champion is to be rolled back, and it is not recorded",
    "production.adapter_loaded": "the engine serves the champion, the pointer is not moved",
    "production.pointer_moved": "the pointer names the champion, the daemon has not gone on",
    # what people do
    "action.record_checked": "a label, skip or withdrawal is allowed, and it is not recorded",
    "action.deployment_checked": "a promotion or rollback is allowed, and it is not recorded",
    "action.deployment_recorded": "a promotion or rollback is recorded, production is not pointed at it",
    # forgetting customers
    "erase.noted": "a note holds what is to be erased, nothing is erased",
    "erase.texts_deleted": "the database has lost the texts, files have not",
    "erase.production_swept": "production's pointers show the texts no more",
    "erase.runs_swept": "run folders are clean",
    "erase.spool_swept": "what came in is clean",
    "erase.artifacts_swept": "artifacts with pieces of the texts have lost them",
    "erase.rest_swept": "logs, the mirror's folder and the rest are clean",
    "erase.note_cleaned": "the note has lost the texts, the write-ahead log has not",
    "erase.scrubbed": "the texts are gone from everywhere, and no event says so",
    "erase.recorded": "the erasure is recorded, its note is left",
    # the mirror to Weights & Biases
    "mirror.session_noted": "a session is open and noted, nothing is sent",
    "mirror.rows_sent": "the loop's rows are sent, how far is not noted",
    "mirror.training_sent": "a training is sent, how far is not noted",
    "mirror.position_noted": "how far the log was sent is noted",
    "mirror.session_closed": "a session is closed, and still noted as open",
    # notifications
    "notify.queued": "the messages of a batch are in a target's outbox, other targets may lack them",
    "notify.sent": "a target has taken a message that still lies in its outbox",
    # archived history, backups
    "archive.segment_written": "a segment is an artifact, its rows still hold their payloads",
    "archive.rows_emptied": "the rows of a segment are emptied, not committed",
    "archive.recorded": "the rows of a segment are emptied and it is recorded, the file is as large as before",
    "archive.shrunk": "the file is smaller, and still noted as to be shrunk",
    "backup.database_copied": "the database is copied into a temporary folder, nothing else is",
    "backup.files_copied": "everything is copied into a temporary folder, nothing is checked",
    "backup.manifest_written": "the copy is checked and has its manifest, it is not renamed",
    "backup.renamed": "the backup has its name, no event says so",
    "backup.recorded": "the backup is recorded, older ones are not removed",
    "backup.old_removed": "an older backup is removed, no event says so",
    "restore.files_copied": "the backup is copied beside its target, nothing is checked",
    "restore.recorded": "the copy is checked and begins its new life, the old workspace is in its place",
    "restore.moved_aside": "the old workspace is moved aside, nothing is in its place",
    "restore.database_placed": "the log is in its place, settings and prompts are not",
    "restore.placed": "everything is in its place, and is not checked there",
}

_name, _, _nth = os.environ.get("TUNELOOP_KILL_AT", "").partition(":")
_left = int(_nth or 1)


def reached(name: str) -> None:
    """Say that the point `name` of `POINTS` has been reached; dies when a test asked for it."""
    global _left
    if not _name or name != _name:
        return
    _left -= 1
    if _left:
        return
    root = int(os.environ.get("TUNELOOP_KILL_ROOT", "0"))
    if root and root != os.getpid():
        os.kill(root, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
