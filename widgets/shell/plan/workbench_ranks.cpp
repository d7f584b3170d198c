// The workbench's second profile: when it is looked for, when it starts by itself, who gets it.
#include "shell/plan/workbench.h"

#include <QFile>

#include <algorithm>

namespace espalier
{

namespace
{
constexpr double kQuickPassSeconds = 60;  // a first pass within it lets the deep one follow by itself
}  // namespace

void Workbench::lookForDeep()
{
    if (!isOpen() || m_fingerprint.empty()) return;
    DeepProfile::Target target;
    target.model = m_modelPath.toStdString();
    target.text = m_shares.calibration;
    target.windows = m_shares.calibration.fullWindows;
    target.layers = static_cast<int>(m_plans.shape().layers.size());
    target.file = profileFileOf("ranks");
    const std::string& kept = m_kept.profileFingerprint;
    if (!kept.empty() && m_keptText.isEmpty()) {
        target.otherFile = QString::fromStdString(m_kept.profile.string());
        target.otherSha256 = kept;
    } else if (!kept.empty() && !m_rankProfiles.contains(kept)) {
        // Of another text: it says nothing about this one, but plans made with it can be evaluated.
        const QString file = QString::fromStdString(m_kept.profile.string());
        m_store.profileHash(file, [this, file, kept](const Result<std::string>& sha256) {
            if (!sha256.ok() || *sha256 != kept || m_kept.profileFingerprint != kept) return;
            m_rankProfiles[kept] = file.toStdString();
            m_evaluation.setProfiles(m_rankProfiles);
        });
    }
    m_deep.open(std::move(target));
}

// Plans in the history name the profile that they were made with: the session knows where it lies until there is one of the new text.
void Workbench::keepDeep()
{
    if (m_deep.ready()) {
        m_kept.profile = m_deep.file().toStdString();
        m_kept.profileFingerprint = m_deep.sha256();
        m_keptText = m_texts.calibration;
    } else if (!m_kept.profileFingerprint.empty() && m_keptText.isEmpty()) {
        m_keptText = m_texts.calibration;
    }
}

void Workbench::measureRanks()
{
    if (!isOpen() || !m_forwardSupported) return;
    m_deep.start();
}

void Workbench::considerDeep()
{
    if (m_deepRest < 0 || !settled() || m_planning.running() || m_weightScores.job() || !m_engine.usable() || !m_forwardSupported) return;
    // Whoever measured the first profile, in this run or an earlier one, wrote down how long that took.
    if (m_deep.state() == DeepProfile::State::Missing) {
        QFile note(profileFile() + QStringLiteral(".seconds"));
        if (!note.open(QIODevice::ReadOnly)) return;
        bool number = false;
        const double seconds = note.readAll().trimmed().toDouble(&number);
        if (!number || !(seconds < kQuickPassSeconds)) return;
    }
    m_deep.startAfterRest(m_deepRest);
}

void Workbench::setDeepRest(int msec)
{
    m_deepRest = msec;
    considerDeep();
}

void Workbench::measuredIn(double seconds)
{
    QFile note(profileFile() + QStringLiteral(".seconds"));
    if (note.open(QIODevice::WriteOnly)) note.write(QByteArray::number(seconds, 'f', 1));
}

QString Workbench::profileOnDisk() const
{
    QString first = profileFile();
    if (QFile::exists(first)) return first;
    QString deep = profileFileOf("ranks");
    return QFile::exists(deep) ? deep : first;
}

// Two files of one measurement are one too many. The deep one is complete where it is there at all, for it is renamed into its place; a
// session that refers to the first one is written anew first.
void Workbench::dropFirstProfile()
{
    if (!m_deep.ready() || m_profileRequest != 0 || m_deep.file() != profileFileOf("ranks")) return;
    if (!m_sessionFile.isEmpty() && m_savedProfile == profileFile()) return;
    // Constants of a plan are read from the profile it names.
    const auto& entries = m_plans.history().entries();
    if (std::any_of(entries.begin(), entries.end(), [](const HistoryEntry& entry) { return entry.plan.needsConstants(); })) return;
    if (QFile::remove(profileFile())) lookForConstants();
}

// Constants are made of the mean outputs that the profile holds.
void Workbench::lookForConstants()
{
    const int epoch = ++m_constantsEpoch;
    const auto missing = [this](const QString& why) {
        m_plans.setConstantsSource({}, why);
        emit profileChanged();
    };
    if (!m_profiled) {
        m_plans.setConstantsSource({}, m_profileRequest != 0 ? tr("the profile is being measured.")
                                                             : tr("it is the mean of the expert's outputs, and there is no profile yet: "
                                                                  "Evaluate > Measure the profile."));
        return;
    }
    const auto& layers = m_plans.shape().layers;
    const auto first = std::find_if(layers.begin(), layers.end(), [](const LayerShape& layer) { return layer.moe; });
    if (first == layers.end()) return;
    const QString file = profileOnDisk();
    m_store.constantsIn(file, first->index, [this, epoch, file, missing](const Result<std::string>& sha256) {
        if (epoch != m_constantsEpoch || !isOpen()) return;
        if (!sha256.ok()) {
            missing(sha256.error().code == "profile.missing"
                        ? tr("the profile's file is gone: Evaluate > Measure the profile.")
                        : tr("the profile holds no mean outputs of the experts (\"outputs\"): Evaluate > Measure the profile takes them."));
            return;
        }
        m_rankProfiles[*sha256] = file.toStdString();
        m_evaluation.setProfiles(m_rankProfiles);
        m_plans.setConstantsSource(*sha256, {});
        emit profileChanged();
    });
}

void Workbench::deepChanged()
{
    const bool ready = m_deep.ready();
    if (ready) m_rankProfiles[m_deep.sha256()] = m_deep.file().toStdString();
    m_evaluation.setProfiles(m_rankProfiles);
    m_plans.setRankFactors(ready ? FactorSettings{"whitened-svd", m_deep.sha256()} : FactorSettings{"svd", {}});
    emit profileChanged();
    dropFirstProfile();
    considerDeep();
}

}  // namespace espalier
