// What the search panel says and draws of each part of a search: the number with its facts, the curve and the bars. Values only, made from
// a SearchState; the panel lays them out.
#pragma once

#include "planning/search_plots.h"
#include "planning/search_state.h"

#include <QString>

#include <utility>
#include <vector>

namespace espalier
{

struct SearchFacts {
    QString number;
    bool muted = false;  // the number is a word
    QString line;
    std::vector<std::pair<QString, QString>> rows;  // name, value
};

// One part of a search: its layers, its measured plans (verified allocator), its blocks (receptive field), or its recovery.
class SearchFactsOf
{
public:
    // `compact`: shorter words, for a narrow panel. Keeps a reference to `state`.
    SearchFactsOf(const SearchState& state, bool compact) : state_(state), compact_(compact) {}

    SearchFacts layer(int layer) const;
    SearchCurve layerCurve(int layer) const;
    SearchBars layerBars(int current) const;

    SearchFacts plans() const;
    SearchCurve planCurve() const;
    SearchBars planBars(int current) const;

    SearchFacts block(int block) const;
    SearchCurve blockCurve(int block) const;
    SearchBars blockBars(int current) const;

    SearchFacts recovery() const;
    SearchCurve recoveryCurve() const;  // perplexity by step where the method measures it, else its loss
    SearchBars recoveryBars() const;    // perplexity of dense model, plan before and after, control

    QString status() const;              // how and when it ended
    QString layerLine(int layer) const;  // what the number of a layer is measured against
    QString byScore() const;

private:
    const SearchState& state_;
    bool compact_;
};

}  // namespace espalier
