// Memory that was freed, back to the system.
#pragma once

namespace espalier
{

// Gives pages that the heap keeps after they were freed back to the system, at most once a second over all callers; nothing happens where
// the C library has no way to. Whoever frees many blocks of changing sizes calls it between two units of work: evaluations of plans with
// ranks leave holes that nothing of the next plan's sizes fits. Costs a few milliseconds when it does something. Any thread.
void giveBackFreedMemory();

}  // namespace espalier
