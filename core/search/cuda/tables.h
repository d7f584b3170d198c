// What both implementations do with the tables before they use them. Private to this folder.
#pragma once

#include "search/cuda/batched_set_loss.h"
#include "search/cuda/set_loss_terms.h"

#include <vector>

namespace espalier::batched
{

// Everything the arithmetic indexes by lies inside the arrays. Error: search.batch_tables.
Status check(const SetLossTables& tables);
// [T][K] probabilities in list order.
std::vector<double> listProbability(const SetLossTables& tables);
// Sizes, and the pointers of the views; listProbability is left to the caller.
LayerTables layerTables(const SetLossTables& tables);

}  // namespace espalier::batched
