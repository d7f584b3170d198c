// Memory that was freed, back to the system.
#pragma once

namespace espalier
{

// Gives pages that the heap keeps after they were freed back to the system, at most every three seconds over all callers; nothing happens
// where the C library has no way to. Whoever frees many blocks of changing sizes calls it between two units of work: evaluations of plans
// with ranks leave holes that nothing of the next plan's sizes fits. What it gives back is faulted in again: a tenth of a second where
// evaluations hold hundreds of megabytes, hence the pause. Any thread.
void giveBackFreedMemory();

}  // namespace espalier
