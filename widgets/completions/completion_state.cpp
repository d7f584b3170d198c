#include "completions/completion_state.h"

#include "look/format.h"

#include <QCoreApplication>

#include <algorithm>
#include <cmath>

namespace espalier
{

namespace
{

QString words(const char* text) { return QCoreApplication::translate("espalier::Completion", text); }

QString shown(const std::string& text)
{
    QString token = QString::fromStdString(text);
    token.replace(QLatin1Char('\n'), QStringLiteral("↵"));
    return QStringLiteral("“%1”").arg(token);
}

QString probability(double logprob) { return format::share(std::exp(logprob)); }

}  // namespace

int firstDifference(const Completion& a, const Completion& b)
{
    const std::size_t common = std::min(a.tokens.size(), b.tokens.size());
    for (std::size_t i = 0; i < common; ++i)
        if (a.tokens[i].id != b.tokens[i].id) return static_cast<int>(i);
    // One that has ended where the other goes on differs there.
    const bool ended =
        (a.tokens.size() < b.tokens.size() && !a.running && !a.waiting) || (b.tokens.size() < a.tokens.size() && !b.running && !b.waiting);
    return ended && common > 0 ? static_cast<int>(common) : -1;
}

bool differsAt(const Completion& of, const Completion& beside, std::size_t place)
{
    if (beside.tokens.empty() || place >= of.tokens.size()) return false;
    if (place < beside.tokens.size()) return of.tokens[place].id != beside.tokens[place].id;
    return !beside.running && !beside.waiting;
}

QString tokenWords(const Completion& of, const Completion& beside, std::size_t place)
{
    const GeneratedTokenEvent& token = of.tokens[place];
    QStringList lines = {QStringLiteral("%1  %2").arg(shown(token.text), probability(token.logprob))};
    QStringList others;
    for (const TokenAlternative& other : token.alternatives)
        if (other.id != token.id) others += QStringLiteral("%1 %2").arg(shown(other.text), probability(other.logprob));
    if (!others.isEmpty()) lines += words("else: %1").arg(others.join(QStringLiteral(", ")));
    if (place < beside.tokens.size()) {
        const GeneratedTokenEvent& there = beside.tokens[place];
        if (there.id == token.id)
            lines += words("%1: the same, %2").arg(beside.name, probability(there.logprob));
        else
            lines += words("%1: %2 %3").arg(beside.name, shown(there.text), probability(there.logprob));
    } else if (!beside.tokens.empty() && !beside.running && !beside.waiting) {
        lines += words("%1 has ended before").arg(beside.name);
    }
    return lines.join(QLatin1Char('\n'));
}

}  // namespace espalier
