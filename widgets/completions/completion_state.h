// What two models say to one prompt: values of the views. Pure functions.
#pragma once

#include "rpc/protocol_generate.h"

#include <QString>

#include <vector>

namespace espalier
{

// One model's completion, as far as it is known.
struct Completion {
    QString name;  // "dense", the plan's name
    std::vector<GeneratedTokenEvent> tokens;
    bool running = false;
    bool waiting = false;        // its turn comes after the other's
    QString finish;              // how it ended, in words; empty: it did not, or at the number of tokens asked for
    double tokensPerSecond = 0;  // behind the first token; 0: not known
    bool stale = false;          // of an earlier plan than the one on screen
};

struct CompletionState {
    Completion dense;
    Completion plan;
    bool planIsDense = false;  // one side
    bool busy = false;
};

// Place of the first token that differs; -1: none does, as far as both go.
int firstDifference(const Completion& a, const Completion& b);
// Whether the token at this place is another one than the other side's, or the other side has ended before it.
bool differsAt(const Completion& of, const Completion& beside, std::size_t place);
// What hovering says: the token, its probability, what else could have come, and what the other side has there.
QString tokenWords(const Completion& of, const Completion& beside, std::size_t place);

}  // namespace espalier
